#!/usr/bin/env bash
# Fetches the Beam engines that the tests of marker `engines` run on, into the folder given: Prism, of the same
# version as Beam's Python, and Flink. Where there is no Go, no Maven or no registry, it says so, and the tests skip.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
folder=${1:?the folder to build into}
version=$(python -c 'import apache_beam; print(apache_beam.__version__)')
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

if ! command -v go >/dev/null; then
  echo "no Go: the tests on Prism are skipped"
elif ! GOBIN="$folder" timeout 900 go install "github.com/apache/beam/sdks/v2/go/cmd/prism@v$version"; then
  echo "Prism $version could not be built: its tests are skipped"
fi

# A jar that names the others and Java 17's flags, for `java -jar`, by which --runner=FlinkRunner starts a job server.
# That sends every jar on its class path with every job, so it has none that only the cluster needs, or Google's storage.
write_job_server_jar() {
  cd "$folder/flink" || return
  {
    echo "Main-Class: org.apache.beam.runners.flink.FlinkJobServerDriver"
    echo "Add-Opens: java.base/java.lang java.base/java.util java.base/java.nio java.base/sun.nio.ch"
    echo "Class-Path: "
    for jar in *.jar; do
      case $jar in
      flink-rpc-akka-* | flink-shaded-zookeeper-* | grpc-* | conscrypt-* | proto-google-cloud-* | async-profiler-*) ;;
      *) echo "  $jar" ;;
      esac
    done
  } >manifest.txt
  jar --create --file job_server.jar --manifest manifest.txt
}

rm -f "$folder/flink/job_server.jar"
if ! { command -v mvn && command -v java && command -v jar; } >/dev/null; then
  echo "no Maven or no Java: the tests on Flink are skipped"
elif ! timeout 900 mvn --quiet --batch-mode --file "$here/flink_pom.xml" \
  org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
  -DincludeScope=runtime -DoutputDirectory="$folder/flink" || ! (write_job_server_jar); then
  echo "Flink could not be fetched: its tests are skipped"
fi
