"""What a check has noted beside the heads, which most models that tests make have each for itself."""


def besides_heads(report):
    """The notes of a report that are not about heads that started apart."""
    return tuple(note for note in report.notes if "heads do not look like" not in note)
