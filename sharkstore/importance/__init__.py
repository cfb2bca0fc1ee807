"""What each field and each row is worth, measured in a PyTorch loop. Needs torch.

from sharkstore.importance import Importance
"""

from sharkstore.importance.measure import Importance

__all__ = ["Importance"]
