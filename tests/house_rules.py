"""The rules of docs/architecture.md as functions, from modules to violations as text."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FLOORS = [
    ["errors", "types", "diffusion", "old_names", "config"],
    ["scheduler_names", "files", "weights", "prompting", "nn", "media", "tokenization"],
    ["autoencoders", "denoisers", "conditioners", "adapters", "features", "data", "governance"],
    ["settings", "card", "model", "runtime", "layouts", "checkpoints", "attachments"],
    ["task", "tasks", "pipeline"],
    ["evaluation"],
    ["training"],
    ["progress", "inspection", "listing", "cli"],
]
ROOMS = [room for floor in FLOORS for room in floor]
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
FUNCTION = (ast.FunctionDef, ast.AsyncFunctionDef)


class Module(NamedTuple):
    name: str  # dotted, "safelight.nn.__init__" for a package
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.name.split(".")[1]


Modules = dict[str, Module]


def parse(sources: dict[str, str]) -> Modules:
    return {name: Module(name, text, ast.parse(text)) for name, text in sources.items()}


def read(folder: Path) -> Modules:
    paths = sorted(folder.rglob("*.py"))
    return parse(
        {".".join(p.relative_to(folder).with_suffix("").parts): p.read_text("utf-8") for p in paths}
    )


def imports(module: Module, deep: bool = True) -> Iterator[tuple[int, str]]:
    """The line and dotted name of each import; unless ``deep``, of those that importing runs."""
    nodes: list[ast.AST] = [module.tree]
    while nodes:
        match nodes.pop():
            case ast.Import(names, lineno=line):
                yield from ((line, alias.name) for alias in names)
            case ast.ImportFrom(base, names, level, lineno=line):
                above = module.name.split(".")[:-level] if level else []
                yield from (
                    (line, ".".join([*above, *filter(None, [base]), alias.name])) for alias in names
                )
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda() if not deep:
                pass
            case ast.If(test, _, orelse) if not deep and ast.unparse(test).endswith(
                "TYPE_CHECKING"
            ):
                nodes += orelse
            case node:
                nodes += ast.iter_child_nodes(node)


def functions(
    modules: Modules,
) -> Iterator[tuple[Module, ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, FUNCTION):
                yield module, node, f"{module.name}:{node.lineno} {node.name}"


def parameters(node: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.arg]:
    arguments = [
        *node.args.posonlyargs,
        *node.args.args,
        *node.args.kwonlyargs,
        *filter(None, [node.args.vararg]),
    ]
    return [argument for argument in arguments if argument.arg not in ("self", "cls")]


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def rooms_without_a_floor(modules: Modules) -> list[str]:
    return [
        name
        for name, module in modules.items()
        if module.room not in [*ROOMS, "__init__", "__main__"]
    ]


def upward_imports(modules: Modules) -> list[str]:
    """A room imports from lower floors and, but on floor 2, from rooms named before it on its own.

    The package's public names reach up to ``pipeline``, so only the floors above that may use them;
    its version is for everyone.
    """

    def allowed(mine: str, theirs: str) -> bool:
        here, there = FLOOR.get(mine, -1), FLOOR.get(theirs, FLOOR["pipeline"])
        same = here == there != 2 and theirs in ROOMS and ROOMS.index(theirs) < ROOMS.index(mine)
        return mine == theirs or there < here or same

    found = []
    for module in modules.values():
        for line, dotted in imports(module):
            package, other, *_ = [*dotted.split("."), ""]
            if (
                package == "safelight"
                and module.room not in ("__init__", "__main__")
                and other != "__version__"
            ):
                found += [] if allowed(module.room, other) else [f"{module.name}:{line} {dotted}"]
    return found


def foreign_imports_on_the_ground_floor(modules: Modules) -> list[str]:
    outside = {*sys.stdlib_module_names, "torch", "einops", "jaxtyping"}
    inside = ("safelight.types", "safelight.errors", "safelight.diffusion")
    found = [
        (m, line, name)
        for m in modules.values()
        if m.room in ("types", "diffusion")
        for line, name in imports(m)
    ]
    return [
        f"{m.name}:{line} {name}"
        for m, line, name in found
        if name.split(".")[0] not in outside
        and not f"{name}.".startswith(tuple(f"{room}." for room in inside))
    ]


def torch_imports(modules: Modules) -> list[str]:
    """Imports of torch, directly or through other modules.

    Some rooms must not import it at all, tasks and the command line only inside functions.
    """

    def run_by(dotted: str) -> list[str]:
        parts = dotted.split(".")
        heads = [".".join(parts[: n + 1]) for n in range(len(parts))]
        return (
            ["torch", *heads]
            if parts[0] == "torch"
            else [*heads, *(f"{head}.__init__" for head in heads)]
        )

    heavy, before = {"torch"}, 0
    while len(heavy) > before:
        before = len(heavy)
        heavy |= {
            m.name
            for m in modules.values()
            for _, name in imports(m, deep=False)
            if heavy.intersection(run_by(name))
        }
    deep = {
        "governance": True,
        "config": True,
        "errors": True,
        "tasks": False,
        "cli": False,
        "__init__": False,
    }
    return [
        f"{m.name}:{line} {name}"
        for m in modules.values()
        if m.room in deep
        for line, name in imports(m, deep[m.room])
        if heavy.intersection(run_by(name))
    ]


PRIVATE_WORDS = {
    "absence",
    "asked",
    "attended",
    "begin_at_rest",
    "beside",
    "churn_from",
    "churn_to",
    "doubles",
    "eye",
    "grain",
    "heard",
    "hearing",
    "hears",
    "hollow",
    "join_at_zero",
    "lonely",
    "marks",
    "material",
    "numbered",
    "said",
    "singles",
    "stands_on",
    "swell",
    "told",
    "tower",
    "towers",
    "unheard",
    "unread",
    "waist",
    "weighing",
    "wordy",
}
"""Words of an earlier private dialect that readers of the field do not know."""


def private_words(modules: Modules) -> list[str]:
    """Names of classes, functions, arguments, attributes and variables that are private words."""
    found = []
    for module in modules.values():
        for node in ast.walk(module.tree):
            match node:
                case ast.ClassDef(name) | ast.FunctionDef(name) | ast.AsyncFunctionDef(name):
                    pass
                case ast.arg(name) | ast.Attribute(_, name):
                    pass
                case ast.Name(name, ast.Store()):
                    pass
                case _:
                    continue
            if name.lower().strip("_") in PRIVATE_WORDS:
                found.append(f"{module.name}:{node.lineno} {name}")
    return found


def long_files(modules: Modules, limit: int = 600) -> list[str]:
    return [name for name, module in modules.items() if len(module.text.splitlines()) > limit]


def long_functions(modules: Modules) -> list[str]:
    sizes = [length(node) for _, node, _ in functions(modules)]
    found = [
        f"{where}: {length(node)} lines"
        for _, node, where in functions(modules)
        if length(node) > 80
    ]
    short = sum(size < 40 for size in sizes)
    return found + (
        []
        if 10 * short >= 9 * len(sizes)
        else [f"only {short} of {len(sizes)} functions under 40 lines"]
    )


def many_parameters(modules: Modules) -> list[str]:
    limit = {module.name: 8 if FLOOR.get(module.room) == 0 else 10 for module in modules.values()}
    return [
        where
        for module, node, where in functions(modules)
        if len(parameters(node)) > limit[module.name]
    ]


def configs_with_many_fields(modules: Modules) -> list[str]:
    classes = [
        (name, node)
        for name, module in modules.items()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ClassDef) and node.name == "Config"
    ]
    fields = {
        node: [
            x
            for x in node.body
            if isinstance(x, ast.AnnAssign) and "ClassVar" not in ast.unparse(x.annotation)
        ]
        for _, node in classes
    }
    return [
        f"{name}:{node.lineno} {len(fields[node])} fields"
        for name, node in classes
        if len(fields[node]) > 12
    ]


def missing_annotations(modules: Modules) -> list[str]:
    return [
        where
        for _, node, where in functions(modules)
        if node.returns is None or any(argument.annotation is None for argument in parameters(node))
    ]


def keyword_dictionaries(modules: Modules) -> list[str]:
    return [where for _, node, where in functions(modules) if node.args.kwarg]


def forbidden_calls(modules: Modules) -> list[str]:
    def forbidden(call: ast.Call) -> bool:
        called = ast.unparse(call.func).split(".")[-1]
        strict = [*call.args[1:2], *(word.value for word in call.keywords if word.arg == "strict")]
        lenient = any(isinstance(value, ast.Constant) and value.value is False for value in strict)
        return called == "hasattr" or (called == "load_state_dict" and lenient)

    calls = [
        (m, node)
        for m in modules.values()
        for node in ast.walk(m.tree)
        if isinstance(node, ast.Call)
    ]
    return [f"{m.name}:{call.lineno} {ast.unparse(call)}" for m, call in calls if forbidden(call)]


def statements(body: list[ast.stmt]) -> Iterator[tuple[int, str]]:
    """Each statement as one line, with its line number; of a compound one its head, then its body.

    Imports, docstrings and signatures are left out.
    """
    for node in body:
        inner = [
            value for name in ("body", "orelse", "finalbody") for value in vars(node).get(name, ())
        ]
        branches = [*vars(node).get("handlers", ()), *vars(node).get("cases", ())]
        inner += [statement for branch in branches for statement in branch.body]
        constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom) or constant:
            continue
        if not isinstance(node, (*FUNCTION, ast.ClassDef)):
            yield node.lineno, ast.unparse(node).partition("\n")[0] if inner else ast.unparse(node)
        yield from statements(inner)


def repeated_passages(modules: Modules, span: int = 6) -> list[str]:
    first: dict[tuple[str, ...], str] = {}
    found = []
    for module in modules.values():
        lines = list(statements(module.tree.body))
        for start in range(len(lines) - span + 1):
            here, passage = (
                f"{module.name}:{lines[start][0]}",
                tuple(line for _, line in lines[start : start + span]),
            )
            if passage in first:
                found.append(f"{here} repeats {first[passage]}: {passage[0]}")
            first.setdefault(passage, here)
    return found
