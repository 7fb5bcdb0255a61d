"""Labels as they are shown to a person: the first of several names, where that says enough."""

from collections import Counter
from collections.abc import Iterable


def short_labels(labels: Iterable[str]) -> dict[str, str]:
    """Return by label what stands before its first comma, or all of it where two would be alike.

    ImageNet's labels are lists of synonyms: "tabby, tabby cat".
    """
    first = {label: label.partition(",")[0].strip() for label in labels}
    shared = Counter(first.values())
    return {label: name if name and shared[name] == 1 else label for label, name in first.items()}
