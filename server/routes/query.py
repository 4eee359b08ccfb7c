"""What stands behind the `?` of an address: a name that a route does not know is refused.

A misspelt `robot` would otherwise mean the default robot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from fastapi.routing import APIRoute

from server.problems import ProblemError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Coroutine

    from fastapi import Request, Response


@final
class KnownQueryRoute(APIRoute):
    """A route that takes the query parameters of its function and no others."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """As any other route's, after a look at the query."""
        handler = super().get_route_handler()
        known = [field.alias for field in self.dependant.query_params]

        async def checked(request: Request) -> Response:
            refuse_unknown(request, known)
            return await handler(request)

        return checked


def refuse_unknown(request: Request, known: Collection[str]) -> None:
    """Raise a problem `bad-request` for a query parameter that is not among `known`."""
    if not request.scope["query_string"]:
        return
    unknown = [repr(name) for name in request.query_params if name not in known]
    if unknown:
        takes = f"takes {', '.join(known)}" if known else "takes none"
        raise ProblemError(
            "bad-request",
            f"{request.method} {request.url.path} has no query parameter "
            f"{', '.join(unknown)}; it {takes}",
        )
