"""Who hears of what, by name: see PUSH_AUDIENCES."""


def newsletter(tokens):
    """Those whose user has asked for the newsletter."""
    return tokens.filter(metadata__newsletter=True)
