"""How an image id becomes the name of a file, and back."""

import hashlib
import re
from urllib.parse import unquote

_SPECIAL = re.compile(r'[%\\:*?"<>|\[\]\x00-\x1f\x7f\ud800-\udfff]')
_OUTPUT_SUFFIX = re.compile(r"\.(png|npz)$", re.IGNORECASE)
_LONGEST_PART, _LONGEST_NAME, _HASHED = 200, 800, "%~"  # bytes; file systems allow 255 and 4096, gs:// 1024


def file_name(image_id: str) -> str:
    """A relative path for an image id: `/` makes folders, what file systems treat specially is quoted.

    Different ids give different names, and `image_id_of` undoes it. A part that is too long for a file system
    is cut and gets a hash of the whole, which cannot be undone.
    """
    *folders, last = map(_quote, image_id.split("/"))
    folders = [_OUTPUT_SUFFIX.sub(r"%2E\1", folder) for folder in folders]  # image `a` has the file `a.png`
    parts = [_bound(part) for part in (*folders, last)]
    if len("/".join(parts).encode()) > _LONGEST_NAME:
        return _bound(_quote(image_id).replace("/", "%2F"), longest=0)
    return "/".join(parts)


def image_id_of(name: str) -> str:
    """The image id that `file_name` gave this name; a part that was cut stays as it is."""
    return "/".join("" if part == "%2F" else _unquote(part) for part in name.split("/"))


def _quote(part):
    quoted = _SPECIAL.sub(lambda found: "".join(f"%{byte:02X}" for byte in _encode(found[0])), part)
    return "%2E" + quoted[1:] if quoted.startswith(".") else quoted or "%2F"


def _unquote(part):
    return part if _HASHED in part else unquote(part, errors="surrogateescape")


def _bound(part, longest=_LONGEST_PART):
    """A quoted part of at most 200 bytes: a longer one is cut, and a hash of it appended."""
    data = part.encode()
    if len(data) <= longest:
        return part
    kept = re.sub("%[0-9A-F]?$", "", data[:160].decode(errors="ignore"))
    return f"{kept}{_HASHED}{hashlib.sha256(data).hexdigest()[:16]}"


def _encode(character):
    try:
        return character.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return character.encode("utf-8", "surrogatepass")
