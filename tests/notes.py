"""The notes of a check, without those about the heads: most models made by tests have heads of their own."""


def besides_heads(report):
    """The notes of a report, except those about heads that do not share an initialization."""
    return tuple(note for note in report.notes if "heads do not look like" not in note)
