"""What each field and each row is worth, measured in a PyTorch loop.

    from sharkstore.importance import Importance

Needs torch.
"""

from sharkstore.importance.measure import Importance
from sharkstore.importance.prune import Round, prune_gradually

__all__ = ["Importance", "Round", "prune_gradually"]
