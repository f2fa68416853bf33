"""The command that chats with an endpoint."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import click

import phift
from phift.cli.interrupted import watch
from phift.cli.options import WORKSPACE
from phift.cli.output import hand_out, tell

_LONG = 40  # characters, from which on an answer in one piece says something about its server


@click.command()
@click.argument("endpoint")
@WORKSPACE
@click.option("--deployment", help="Ask this deployment, whatever the traffic rules say.")
@click.option("--system", metavar="TEXT", help="Begin with this system message.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Of an answer.")
@click.option("--json", "as_json", is_flag=True, help="Print a line of JSON for each answer.")
def chat(
    endpoint: str,
    workspace: str | None,
    deployment: str | None,
    system: str | None,
    max_new_tokens: int,
    as_json: bool,
) -> None:
    """Chat with an endpoint: each line is the next question, and the answer is shown as it comes.

    In a terminal Ctrl-C ends an answer, and its question is forgotten; Ctrl-D ends the chat. Lines from a file or a
    pipe are asked in turn, and the first error ends it. What is said is kept in memory only.
    """
    by_hand = sys.stdin.isatty()
    turns: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    with closing(phift.Endpoint.attach(endpoint, phift.connect(workspace=workspace))) as asked:
        if by_hand:
            tell(f"Chatting with {endpoint}. Ctrl-C ends an answer, Ctrl-D ends the chat.", err=True)
        told = not by_hand  # that the server does not stream
        for line in _lines(by_hand, prompt_beside=as_json or not sys.stdout.isatty()):
            turns.append({"role": "user", "content": line})
            try:
                stream = asked.stream(turns, deployment=deployment, max_new_tokens=max_new_tokens)
                reply = _show(stream, as_json=as_json)
            except (KeyboardInterrupt, phift.PhiftError) as error:
                if not by_hand or (isinstance(error, KeyboardInterrupt) and not watch.by_hand):
                    raise
                turns.pop()
                said = f"error: {error}" if isinstance(error, phift.PhiftError) else "The answer was interrupted."
                tell(f"\n{said}", err=True, lines=True)
                continue
            turns.append(reply.message)
            if not told and stream.in_one_piece and len(reply) > _LONG:
                told = True
                tell("(The answer came in one piece: this deployment's server does not stream.)", err=True)


def _lines(by_hand: bool, *, prompt_beside: bool) -> Iterator[str]:
    """Yield what is asked, line by line; one that Ctrl-C ends before it is whole is forgotten.

    - **prompt_beside**: on stderr, as on stdout there are answers for a program or a file.
    """
    if not by_hand:
        yield from (line for each in sys.stdin if (line := each.strip()))
        return
    with suppress(ImportError):
        import readline  # noqa: F401 - `input` has its keys then
    while True:
        if prompt_beside:
            tell("> ", err=True, ends=False)
        try:
            line = input("" if prompt_beside else "> ").strip()
        except EOFError:
            tell("", err=True)
            return
        except KeyboardInterrupt:
            if not watch.by_hand:
                raise
            tell("", err=True)
            continue
        if line:
            yield line


def _show(stream: phift.ReplyStream, *, as_json: bool) -> phift.Reply:
    """Show an answer as it comes, and return it; as JSON when it is whole."""
    with stream:
        for piece in stream:
            if not as_json:
                tell(piece, lines=True, hide=False, ends=False)
        reply = stream.reply
    if as_json:
        hand_out(json.dumps(_plain(stream, reply)))
        return reply
    calls = [f"[calls {call.name} with {call.arguments}]" for call in reply.tool_calls]
    tell("\n".join([*([""] if reply and calls else []), *calls]), lines=True, hide=False)
    return reply


def _plain(stream: phift.ReplyStream, reply: phift.Reply) -> dict[str, Any]:
    return {
        "text": reply,
        "tool_calls": [call.to_dict() for call in reply.tool_calls],
        "finish_reason": reply.finish_reason,
        "usage": reply.usage,
        "deployment": reply.deployment,
        "first_token_seconds": stream.first_token_seconds,
        "in_one_piece": stream.in_one_piece,
    }
