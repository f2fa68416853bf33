"""What opens a turn, found by rendering a model's own chat template, and proved with what masks rows in training.

A conversation of texts that are nowhere else is rendered; what stands between them are the ends and the heads of turns.
Where a head begins is told by what the template writes after the last turn of a conversation, which is the end alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from phift.component.preprocessing import ChatTokenizer, Refused
from phift.errors import ModelError

_USER, _ANSWER, _SYSTEM = "Kestrels hover over zinc ", "Quills float past violet ", "Umbra before jade"
_ROLES = ("user", "assistant")
_OTHERWISE = (
    "With its generation prompt the chat template opens an answer otherwise than it writes answers, so the model would"
    " be asked in a context that it was not trained in."
)
_GIVE = "give what opens a turn: --response-template and --instruction-template; or a tokenizer with another template"


@dataclass(frozen=True)
class Chat:
    """How a model's conversations are written.

    - **response**, **instruction**: the texts that open an assistant's and a user's turn.
    - **end**: the token with which an answer ends, or None.
    - **example**: a conversation, each part of it with whether it is trained on.
    - **warning**: what the user should know of it, or empty.
    """

    response: str
    instruction: str
    system: bool
    end: int | None
    example: tuple[tuple[str, bool], ...]
    warning: str = ""


def read_chat(
    tokenizer: Any, response: str = "", instruction: str = "", system: bool | None = None, *, prove: bool = False
) -> Chat:
    """Find how conversations are written, as far as it is not given.

    - **prove**: whether both markers, where they are given, are proved as strictly as those that are found.

    Raises `phift.errors.ModelError` where markers cannot be found with which exactly the assistant's turns are trained
    on, and where those that are given leave out an answer or take in a question.
    """
    template = tokenizer.chat_template
    if not template:
        what = "The tokenizer has no chat template, so it does not say how a conversation is written."
        fix = "use an instruct model, or set tokenizer.chat_template and save the tokenizer"
        raise ModelError(what, where="tokenizer", fix=fix)
    if isinstance(template, dict) and "default" not in template:
        what = f"The tokenizer has chat templates {', '.join(sorted(template))}, and none is the default."
        raise ModelError(what, where="chat template", fix="save the tokenizer with one template")
    plain = ChatTokenizer(tokenizer=tokenizer)
    if isinstance(alone := _render(tokenizer, _turns(1)), Exception):
        said = " ".join(str(alone).split())[:200]
        what = f"The chat template does not take a question and an answer: {type(alone).__name__}: {said}"
        raise ModelError(what, where="chat template", fix="use an instruct model's own tokenizer")
    if system is None:
        system = _takes_system(tokenizer)
    chat = replace(plain, system_role_supported=system)
    if given := bool(response and instruction and not prove):
        ways, ends = [(response, instruction)], None
    else:
        asked, answered, end = _parts(tokenizer)
        heads = _head(chat, asked, _tail(tokenizer, _turns(1)[:1])), _head(chat, answered, end)
        ways = list(product(_written(response, heads[0]), _written(instruction, heads[1])))
        ends = end[: len(_common(chat, answered, end))], end
    why = "nothing that can be seen stands before a turn"
    for marks in ways:
        marked = replace(chat, response=_ids(tokenizer, marks[0]), instruction=_ids(tokenizer, marks[1]))
        if why := _flaw(marked, ends):
            continue
        warning = "" if _asks_as_trained(tokenizer, marks[0]) else _OTHERWISE
        if warning and not given:
            raise ModelError(warning, where="chat template", fix=_GIVE)
        shown = marked.view(_samples(system)[0], None)
        example = tuple(_joined(shown)) if not isinstance(shown, Refused) else ()
        end_token = _end(tokenizer, _tail(tokenizer, _turns(1)))
        return Chat(*marks, system=system, end=end_token, example=example, warning=warning)
    if given:
        what = f"With {response!r} and {instruction!r} before the turns, {why}."
        raise ModelError(what, where="chat template", fix="give other texts, or leave them out to have them found")
    if response and instruction:
        what = f"With {response!r} and {instruction!r} of the model's finetune config before the turns, {why}."
        raise ModelError(what, where="chat template", fix=f"mend chat_special_tokens there, or {_GIVE}")
    what = f"It is not clear what opens a turn in the model's chat template: {why}."
    raise ModelError(what, where="chat template", fix=_GIVE)


def _turns(count: int) -> list[dict[str, str]]:
    """Return a conversation of texts that no template has, each pair with a number."""
    texts = (("user", _USER), ("assistant", _ANSWER))
    return [{"role": role, "content": f"{text}{number}"} for number in range(count) for role, text in texts]


def _render(tokenizer: Any, messages: Sequence[Mapping[str, str]], **options: Any) -> str | Exception:
    try:
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - a template is a program: it may raise anything
        return error


def _takes_system(tokenizer: Any) -> bool:
    """Whether the template writes a system message, where many refuse it, and some leave it out."""
    text = _render(tokenizer, [{"role": "system", "content": _SYSTEM}, *_turns(1)])
    return isinstance(text, str) and text.count(_SYSTEM) == 1


def _parts(tokenizer: Any) -> tuple[str, str, str]:
    """Return what the template writes between question and answer, between answer and question, and at the end."""
    turns = _turns(3)
    text = _render(tokenizer, turns)
    if isinstance(text, Exception):
        what = f"The chat template does not take several turns: {type(text).__name__}."
        raise ModelError(what, where="chat template", fix="use an instruct model's own tokenizer")
    parts = []
    for turn in turns:
        part, found, text = text.partition(turn["content"])
        if not found or turn["content"] in text:
            what = "The chat template does not write every turn once, as it is."
            raise ModelError(what, where="chat template", fix=_GIVE)
        parts.append(part)
    if len(set(parts[1::2])) > 1 or len(set(parts[2::2])) > 1:
        what = "The chat template does not write all turns alike, so what is trained on would not be what is asked."
        raise ModelError(what, where="chat template", fix=_GIVE)
    return parts[1], parts[2], text


def _asks_as_trained(tokenizer: Any, response: str) -> bool:
    """Whether the generation prompt is what stands before an answer, at least as far as it is not trained on."""
    question, answer = _turns(1)
    text = _render(tokenizer, [question, answer])
    written = str(text).partition(question["content"])[2].partition(answer["content"])[0]
    prompt = _tail(tokenizer, [question], add_generation_prompt=True).rstrip()
    head, marker, _ = written.rpartition(response.strip())
    return written.startswith(prompt) and prompt.startswith((head + marker).rstrip())


def _tail(tokenizer: Any, messages: list[dict[str, str]], **options: Any) -> str:
    """Return what the template writes after the last message of a conversation."""
    text = _render(tokenizer, messages, **options)
    return text.rpartition(messages[-1]["content"])[2] if isinstance(text, str) else ""


def _common(chat: ChatTokenizer, text: str, other: str) -> str:
    """Return the beginning that two texts have in common, in whole tokens of the first."""
    same = next((at for at, (one, two) in enumerate(zip(text, other, strict=False)) if one != two), None)
    same = min(len(text), len(other)) if same is None else same
    whole = 0
    for _, piece in chat.pieces(text):
        if whole + len(piece) > same:
            break
        whole += len(piece)
    return text[:whole]


def _head(chat: ChatTokenizer, between: str, end: str) -> str:
    """Return the head of a turn: what stands between two texts without the end of the first one's turn."""
    rest = between[len(_common(chat, between, end)) :]
    return rest if rest.strip() else between


def _written(given: str, head: str) -> list[str]:
    """Return the ways to write a marker: without the blanks around it, which may become one token with what follows."""
    return [given] if given else [way for way in dict.fromkeys((head.strip(), head.rstrip(), head)) if way.strip()]


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer.encode(text, add_special_tokens=False))


def _end(tokenizer: Any, end: str) -> int | None:
    first = next(iter(_ids(tokenizer, end.strip())), None)
    return first if first in tokenizer.all_special_ids or first in tokenizer.added_tokens_decoder else None


def _samples(system: bool) -> list[dict[str, Any]]:
    """Return conversations of many kinds; a system message is there for templates without that role, too.

    None has what looks like a marker, such as Mistral's [INST]: whatever the template, it would open a turn.
    """
    code = "def user(assistant):\n    return f'{assistant}: system'  # user"
    spoken = (
        ("What is the symbol of iron?", "The symbol of iron is Fe."),
        ("Hi", "Hello! How can I help?", "Say it in German.", "Hallo! Wie kann ich helfen?"),
        ("1+1=?", "2", "And 2+2?", "4", "system", "user"),
        ("Write a function for a user and an assistant.", code),
        ("Question: why?\nAnswer:", "User: because.\n\nAssistant: so."),
        ("  héllo, 你好 🙂 ", " Ünïcode: 你好, мир 🎉\t\n", "\n\nlines\n", "\n- one\n- two\n\n"),
        ("<b>user</b> [x] | # >", "1. **bold**\n2. `code` <i>assistant</i> | # [x]"),
    )
    rows = [[{"role": _ROLES[at % 2], "content": text} for at, text in enumerate(row)] for row in spoken]
    rows += [[{"role": "system", "content": "You are an assistant of the user."}, *row] for row in rows[:2]]
    return [{"messages": row} for row in rows]


def _flaw(chat: ChatTokenizer, ends: tuple[str, str] | None) -> str:
    """Return what is wrong with what is trained on of the samples, or an empty text.

    - **ends**: what must stand after an answer, and after the last one: then every turn must be trained on from its
      first word, or the blanks before it, to its end, and nothing else. None for markers that the user vouches for:
      then every answer must be in, and no question.
    """
    if not (chat.response and chat.instruction):
        return "they are empty as tokens"
    if ends and not ends[0].strip():
        return "nothing ends an answer that is followed by a question, so the model would never learn to stop"
    for row in _samples(chat.system_role_supported):
        shown = chat.view(row, None)
        if isinstance(shown, Refused):
            return shown.reason
        texts = {role: [each["content"].strip() for each in row["messages"] if each["role"] == role] for role in _ROLES}
        answers = texts["assistant"]
        trained = [text for text, mine in _joined(shown) if mine]
        if len(trained) != len(answers):
            return f"{len(trained)} turns are trained on in a conversation with {len(answers)} answers"
        for number, (text, answer) in enumerate(zip(trained, answers, strict=True)):
            if answer not in text:
                return "an answer is not trained on as a whole"
            if ends is None:
                if any(len(each) > 6 and each in text.replace(answer, "") for each in texts["user"]):
                    return "a question is trained on"
                continue
            before, _, after = text.partition(answer)
            wanted = ends[number == len(answers) - 1]
            if before.strip():
                return f"the template writes {before.strip()[:60]!r} between its head and the answer"
            if after.strip() != wanted.strip():
                return f"{after.strip()[:60]!r} is trained on after an answer, and its end is {wanted.strip()[:60]!r}"
    return ""


def _joined(shown: list[tuple[str, bool]]) -> Iterator[tuple[str, bool]]:
    """Yield the parts that are trained on, and those between them, each as one text."""
    text, mine = "", False
    for piece, trained in shown:
        if trained != mine and text:
            yield text, mine
            text = ""
        text, mine = text + piece, trained
    if text:
        yield text, mine
