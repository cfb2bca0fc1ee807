"""Make the conformance corpus in `formats/conformance`, or check it.

New cases are added; a case that would change is refused: golden files are what other readers
were tested with. `--check` writes nothing and fails if anything is missing or differs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from goldens import invalid, malformed, stores, vectors

CORPUS = Path(__file__).resolve().parent.parent / "formats" / "conformance"
MAKERS = {
    "stores": stores.make,
    "malformed": malformed.make,
    "invalid": invalid.make,
    "vectors": vectors.make,
}


def make(top: Path) -> None:
    """Make the whole corpus below an empty folder."""
    for name, maker in MAKERS.items():
        (top / name).mkdir(parents=True)
        maker(top / name)


def compare(made: Path, corpus: Path) -> tuple[list[str], list[str]]:
    """Files that the corpus lacks, and files that it has otherwise or beyond."""
    fresh = {str(p.relative_to(made)): p for p in made.rglob("*") if p.is_file()}
    kept = {
        str(p.relative_to(corpus)): p
        for name in MAKERS
        for p in (corpus / name).rglob("*")
        if p.is_file()
    }
    new = sorted(fresh.keys() - kept.keys())
    differing = [
        name
        for name in fresh.keys() & kept.keys()
        if fresh[name].read_bytes() != kept[name].read_bytes()
    ]
    return new, sorted(differing + list(kept.keys() - fresh.keys()))


def main() -> int:
    """Add what is new; refuse to change what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        make(made)
        new, differing = compare(made, CORPUS)
        for name in differing:
            print(f"differs, not overwritten: {name}", file=sys.stderr)
        if not check and not differing:
            for name in new:
                (CORPUS / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(made / name, CORPUS / name)
    print(f"{len(new)} new, {len(differing)} differing", file=sys.stderr)
    return 1 if differing or (check and new) else 0


if __name__ == "__main__":
    sys.exit(main())
