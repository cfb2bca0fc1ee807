"""Torch modules over a store: a model serves from it by one line.

    import sharkstore
    from sharkstore.nn import replace_embeddings

    replace_embeddings(model, sharkstore.open("model.shark"))

Needs torch.
"""

from sharkstore.nn.bound import Binding, bind
from sharkstore.nn.collection import EmbeddingBagCollection, EmbeddingCollection, TableFeatures
from sharkstore.nn.modules import Embedding, EmbeddingBag
from sharkstore.nn.replace import Replaced, replace_embeddings

__all__ = [
    "Binding",
    "Embedding",
    "EmbeddingBag",
    "EmbeddingBagCollection",
    "EmbeddingCollection",
    "Replaced",
    "TableFeatures",
    "bind",
    "replace_embeddings",
]
