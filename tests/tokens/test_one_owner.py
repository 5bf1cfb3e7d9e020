"""State is written in one package: this walks the source of all the others."""

import ast
from pathlib import Path

import pytest

import django_push

ROOT = Path(django_push.__file__).parent
#: Columns that only a token has.
ONLY_OURS = {
    "token",
    "token_digest",
    "registered_at",
    "last_seen_at",
    "replaced_by",
    "replaced_by_id",
    "status_changed",
    "status_code",
    "status_source",
}
#: Columns that another model may have too: it depends on whose they are.
SHARED = {"status", "enabled", "project", "device_id", "kind", "user", "user_id"}
WRITES = {
    "update",
    "save",
    "save_base",
    "create",
    "bulk_create",
    "bulk_update",
    "get_or_create",
    "update_or_create",
}
#: How other modules get hold of token rows.
TOKEN_ROWS = ("PushToken", "get_token_model", "push_tokens", "TokenStatus", "token_model")
#: What a row is called where it is saved.
ROW_NAMES = {"row", "token", "tok", "push_token", "device"}
#: The model's own save() keeps the digest right.
EXEMPT = {("models/tokens.py", "token_digest"), ("models/tokens.py", "registered_at")}


def offences(source, path=""):
    """Yield what in the source writes a token's columns."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            verb = node.func.attr.removeprefix("a") if node.func.attr[1:] in WRITES else node.func.attr
            if verb not in WRITES or _is_own_super(node):
                continue
            receiver, whole = ast.unparse(node.func.value), ast.unparse(node)
            names = {keyword.arg for keyword in node.keywords}
            names |= {n.value for n in ast.walk(node) if isinstance(n, ast.Constant) and type(n.value) is str}
            ours = names & ONLY_OURS and verb != "save"
            shared = names & SHARED and any(word in whole for word in TOKEN_ROWS)
            if ours or shared or receiver in ROW_NAMES or any(word in receiver for word in TOKEN_ROWS):
                yield f"{path}:{node.lineno}: {whole[:80]}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr":
            names = {n.value for n in node.args if isinstance(n, ast.Constant)}
            if names & (ONLY_OURS | SHARED):
                yield f"{path}:{node.lineno}: {ast.unparse(node)}"
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if (
                    isinstance(target, ast.Attribute)
                    and target.attr in ONLY_OURS - {"token"}
                    and (path, target.attr) not in EXEMPT
                ):
                    yield f"{path}:{node.lineno}: {ast.unparse(target)} = …"


def _is_own_super(node):
    return ast.unparse(node.func.value) == "super()"


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith(("tokens/", "migrations/")):
            yield name


def test_nobody_else_writes():
    """No module outside of tokens/ writes a column of a token's state."""
    found = [line for name in modules() for line in offences((ROOT / name).read_text(), name)]
    assert found == []


def test_walk_sees_everything():
    """The walk sees the modules, and finds the writing where it is allowed."""
    assert {"receipts.py", "models/tokens.py"} <= set(modules())
    owner = [path.read_text() for path in (ROOT / "tokens").glob("*.py")]
    assert any(list(offences(source)) for source in owner)


@pytest.mark.parametrize(
    "source",
    [
        "PushToken.objects.filter(pk=1).update(enabled=False)",
        "get_token_model().objects.create(token='a')",
        "rows.update(status_code='x')",
        "rows.update(**{'registered_at': now})",
        "rows.filter(pk=1).update(status=TokenStatus.RETIRED)",
        "user.push_tokens.update(enabled=True)",
        "await rows.aupdate(last_seen_at=now)",
        "rows.bulk_update(found, ['replaced_by'])",
        "row.status_source = 'x'",
        "row.registered_at += delta",
        "setattr(row, 'status', 'x')",
        "get_token_model()(token='a').save()",
        "row.save(update_fields=['enabled'])",
    ],
)
def test_walk_finds(source):
    """Each way to write a token is found."""
    assert list(offences(source, "x.py"))


@pytest.mark.parametrize(
    "source",
    [
        "ReceiptBatch.objects.filter(pk=1).update(claim='', due_at=now)",
        "Broadcast.objects.filter(pk=1).update(status='paused')",
        "sha.update(text)",
        "tokens.set_enabled(rows, True)",
        "ticket.token == row.token",
    ],
)
def test_walk_lets_pass(source):
    """What writes other tables is none of its business."""
    assert not list(offences(source, "x.py"))
