from .rates import RATES


def discounted(price: float, customer: str) -> float:
    return round(price * (1 - RATES.get(customer, 0.0)), 2)
