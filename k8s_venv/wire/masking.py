"""Keep secrets out of what a call prints and reports."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Callable, Optional, Sequence

    Masker = Callable[[str], str]

# As in Airflow 3 ([logging] min_length_masked_secret): what is shorter stands in too many innocent words.
SHORTEST = 5
MASK = "***"


def masker(secrets: Sequence[str]) -> Masker:
    """Return a function that replaces secrets in a text, also as URLs, JSON and ``repr`` write them.

    Args:
        secrets: the texts to hide; of those with several lines, each long line by itself as well.
    """
    import json
    import re
    from urllib.parse import quote, quote_plus

    found = set()
    for secret in secrets:
        for part in {secret, *(line.strip() for line in secret.splitlines() if len(line.strip()) >= 4 * SHORTEST)}:
            found.update({part, quote(part, safe=""), quote(part), quote_plus(part), json.dumps(part)[1:-1]})
            found.update({json.dumps(part, ensure_ascii=False)[1:-1], repr(part)[1:-1]})
    longest_first = sorted((text for text in found if len(text) >= SHORTEST), key=len, reverse=True)
    if not longest_first:
        return str
    pattern = re.compile("|".join(map(re.escape, longest_first)))
    return lambda text: pattern.sub(MASK, text)


def masked_data(data: Any, mask: Optional[Masker]) -> Any:
    """Return plain data with every text in it masked; other data stay as they are.

    Args:
        data: lists, tuples, dictionaries and texts, of any nesting.
        mask: hides secrets in a text; without it the data stay as they are.
    """
    if mask is None:
        return data
    if isinstance(data, str):
        return mask(data)
    if isinstance(data, dict):
        return {masked_data(key, mask): masked_data(value, mask) for key, value in data.items()}
    if type(data) in (list, tuple):
        return type(data)(masked_data(item, mask) for item in data)
    return data
