"""Which head answers a request: by its task's path and the model that it names.

A client names a model in the body (`"model": "legal"`) or in the path (`/v1/models/legal/token-classification`).
Whoever names none, or the task itself, gets the task's default. It knows names and tasks, not what a head computes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import ServingError
from serving.http.routing.heads import Head
from serving.http.routing.routes import Route
from serving.settings import EMBEDDING, GENERATION

OTHER = "other"

_MODEL_PATH = re.compile(r"/v1/models/([^/]+)/([^/]+)")
_ALIASES = {"completions": GENERATION, "embeddings": EMBEDDING}


def model_in_path(request: Request) -> str | None:
    """The model that a request's path names (`/v1/models/NAME/TASK`), if any."""
    name: str | None = getattr(request.state, "model", None)
    return name


def plain_path(path: str) -> tuple[str, str | None]:
    """`/v1/TASK` and NAME of a path `/v1/models/NAME/TASK`; any other path as it is, and None."""
    found = _MODEL_PATH.fullmatch(path)
    return (f"/v1/{found[2]}", found[1]) if found else (path, None)


def task_at(path: str) -> str:
    """The task that a path asks for, of a request that may never get there."""
    name = plain_path(path)[0].removeprefix("/v1/")
    return _ALIASES.get(name, name)


class Models:
    """The heads of a server and the routes to them, by name; `defaults` are those that answer where none is named.

    The first head of a task is its default, unless another name is among `defaults`.
    """

    def __init__(
        self, heads: Mapping[str, Head], routes: Iterable[Route] = (), defaults: frozenset[str] = frozenset()
    ) -> None:
        self._heads = dict(heads)
        self._named: dict[str, Head | Route] = {**heads, **{route.name: route for route in routes}}
        self._of_task: dict[str, list[str]] = {}
        for name, named in self._named.items():
            names = self._of_task.setdefault(named.task, [])
            names.insert(0 if name in defaults else len(names), name)

    def __iter__(self) -> Iterator[Head]:
        """Every head, in the order of the settings."""
        return iter(self._heads.values())

    @property
    def named(self) -> list[Head | Route]:
        """Every head and every route."""
        return list(self._named.values())

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._named)

    def serves(self, task: str) -> bool:
        return task in self._of_task

    def need(self, task: str, needed: str) -> None:
        """Raises ServingError where no head serves the task; needed: says so to the client."""
        if not self.serves(task):
            raise ServingError("unknown_head", f"{needed}; the heads here are {', '.join(self.names)}")

    def is_default(self, head: Head) -> bool:
        """Whether it answers requests to its task that name no model, or a share of them."""
        default = self._named[self._of_task[head.task][0]]
        return head.name in (default.name, *(arm.name for arm, share in getattr(default, "shares", ()) if share))

    def find(self, name: str) -> Head | Route:
        """Raises ServingError `unknown_head`, which lists the names there are."""
        if name not in self._named:
            raise ServingError(
                "unknown_head", f"no model {name[:100]!r}; the models are {', '.join(self._named)}", param="model"
            )
        return self._named[name]

    def pick(self, request: Request, task: str, model: str | None = None) -> Head:
        """The head of `task` that a request asks for; `model`: the body's, None where it names none.

        The task must be served. Raises ServingError for a model that is not here, is for another task, or is one in
        the path and another in the body. From then on, metrics and log lines count the request under that head.
        """
        in_path = model_in_path(request)
        if in_path is not None and model not in (None, in_path):
            raise ServingError(
                "invalid_input", f"model: {str(model)[:100]!r}, and the path names {in_path[:100]!r}", param="model"
            )
        names = self._of_task[task]
        asked = in_path if in_path is not None else model
        if asked is None or (asked == task and asked not in self._named):
            asked = names[0]
        if asked not in names:
            known = self._named.get(asked)
            said = f"{asked!r} is a model for {known.task}" if known else f"no model {asked[:100]!r}"
            raise ServingError("unknown_head", f"{said}; for {task} there are {', '.join(names)}", param="model")
        found = self._named[asked]
        head = found.head_for(request.state.request_id) if isinstance(found, Route) else found
        request.state.head = head.name
        # Only then may the proxy repeat a refusal to everybody at this path.
        request.state.path_decides = head is found and (in_path is not None or len(names) == 1)
        return head

    def at(self, path: str) -> str:
        """The head or route that a path asks, or `other`, by name: for a request that failed before one was picked."""
        by_model = _MODEL_PATH.fullmatch(path)
        if by_model:
            return by_model[1] if by_model[1] in self._named else OTHER
        names = self._of_task.get(task_at(path))
        return names[0] if names else OTHER


class ModelPaths:
    """Makes `/v1/models/NAME/TASK` the path `/v1/TASK` of a request whose state has the model NAME."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, model = plain_path(scope["path"]) if scope["type"] == "http" else ("", None)
        if model is not None:
            scope = {**scope, "path": path, "raw_path": path.encode()}
            scope.setdefault("state", {})["model"] = model
        await self._app(scope, receive, send)
