#!/usr/bin/env bash
# Builds the Beam engines that the tests of marker `engines` run on, into the folder given: Prism, of the same
# version as Beam's Python. Where there is no Go, or no module proxy, it says so, and the tests skip.
set -uo pipefail
folder=${1:?the folder to build into}
version=$(python -c 'import apache_beam; print(apache_beam.__version__)')
mkdir -p "$folder"
if ! command -v go >/dev/null; then
  echo "no Go: the tests on Prism are skipped"
elif ! GOBIN="$folder" timeout 900 go install "github.com/apache/beam/sdks/v2/go/cmd/prism@v$version"; then
  echo "Prism $version could not be built: its tests are skipped"
fi
