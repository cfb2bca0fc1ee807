"""The conformance corpus, for the tests."""

from pathlib import Path

CORPUS = Path(__file__).resolve().parent.parent / "formats" / "conformance"


def cases(folder: str, pattern: str = "*.json") -> list[Path]:
    """Cases of a kind, in order; never none, so that no test passes for want of them."""
    found = sorted((CORPUS / folder).glob(pattern))
    assert found, f"no cases in {CORPUS / folder}"
    return found
