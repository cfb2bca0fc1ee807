"""The digest of a store."""

import hashlib

from sharkstore.format.digest import store_digest

DIGEST = "sha256:" + "ab" * 32


def test_digest_covers_document_and_trailers():
    document = b'{"digest": "' + DIGEST.encode() + b'"}'
    blank = document.replace(b"ab" * 32, b"0" * 64)
    expected = hashlib.sha256(blank + b"\1\2\3\4" + b"\5\6\7\x08").hexdigest()
    trailers = [b"\1\2\3\4", b"\5\6\7\x08"]
    assert store_digest(document, trailers, DIGEST) == f"sha256:{expected}"
    assert store_digest(blank, trailers) == f"sha256:{expected}"


def test_digest_depends_on_the_order_of_chunks():
    one = store_digest(b"{}", [b"aaaa", b"bbbb"])
    assert one != store_digest(b"{}", [b"bbbb", b"aaaa"])
