from .prices import discounted

__all__ = ["discounted"]
