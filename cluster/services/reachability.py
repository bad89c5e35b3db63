"""Whether a cluster answers, asked before Ray is: in a second, and in a line."""

import logging
import os
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

KNOCK_SECONDS = 10.0  # for a machine to take a connection
T = TypeVar("T")


@contextmanager
def pointed_at(address: str) -> Iterator[str]:
    """`address`, or what the environment names, or the cluster on this machine (`auto`).

    Ray lets its variables override an address that it is given: in this block they agree.
    """
    names = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
    before = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield address or next(iter(before.values()), "auto")
    finally:
        os.environ.update(before)


def knock(address: str) -> None:
    """Raise soon what Ray would find out in minutes: nobody listens there, or we lack the token.

    `address` is `auto` or HOST:PORT. Raises ConnectionError, and Ray's AuthenticationError and
    RpcError.
    """
    from ray._private.services import canonicalize_bootstrap_address_or_die, find_gcs_addresses
    from ray._raylet import GcsClient  # pyright: ignore[reportAttributeAccessIssue] compiled

    find_gcs_addresses.cache_clear()  # pyright: ignore[reportFunctionMemberAccess]
    place = canonicalize_bootstrap_address_or_die(address)
    host, port = place.rsplit(":", 1)
    try:
        socket.create_connection((host.strip("[]"), int(port)), KNOCK_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"{place}: {error}") from error
    _with_token(lambda: GcsClient(address=place))


def _with_token(ask: Callable[[], T]) -> T:
    """What `ask` gives; a cluster that refuses us is shown the token, if there is one.

    Ray itself does so for `auto` alone, and for jobs not at all. RAY_AUTH_MODE decides, where it is
    set.
    """
    from ray._private.authentication import authentication_token_setup as setup
    from ray.exceptions import AuthenticationError

    try:
        return ask()
    except AuthenticationError:
        setup.logger.setLevel(logging.ERROR)  # it would warn that Ray may now ask for tokens
        if setup.AUTH_MODE_ENV_VAR in os.environ:
            raise
        if not setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False):
            raise
    return ask()


@contextmanager
def one_line(address: str) -> Iterator[None]:
    """What Ray raises where it cannot reach `address`, as a ValueError of one line."""
    from ray.exceptions import AuthenticationError, RpcError

    from o3rl.ray_calls import in_a_line

    try:
        yield
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError, RpcError) as error:
        said = in_a_line(error)
        of_http = isinstance(error, RuntimeError) and re.search(r"\b40[13]\b", said)
        if isinstance(error, AuthenticationError) or of_http:
            raise ValueError(
                f"the Ray cluster at {address} refuses us: its token must be in ~/.ray/auth_token "
                f"or RAY_AUTH_TOKEN, and RAY_AUTH_MODE token or unset ({said:.200})"
            ) from error
        raise ValueError(
            f"no Ray cluster answers at {address}: `ray start --head` starts one, --address or "
            f"RAY_ADDRESS names another ({said:.200})"
        ) from error
