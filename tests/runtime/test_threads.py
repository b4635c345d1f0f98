"""One model in several threads, and several streams of one model: each text is what it is alone, or an error."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from llama_cpp import LogitsProcessorList

from conftest import TinyFiles
from retain_local import RetainError
from support.llamas import greedy, load, prompt, text

OPTIONS = {"max_tokens": 12, "temperature": 0.0}


def small(tiny: TinyFiles, **options):
    return load(tiny.model("llama"), **({"policy": "window", "budget": 48, "buffer": 8} | options))


def pieces(stream) -> str:
    return "".join(chunk["choices"][0]["text"] for chunk in stream)


def test_completions_of_threads_are_what_they_are_alone(tiny: TinyFiles) -> None:
    prompts = [text(n, seed=n) for n in (20, 70, 130, 30, 90, 50)]
    alone = [small(tiny)(each, **OPTIONS)["choices"][0]["text"] for each in prompts]
    llm = small(tiny)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda each: llm(each, **OPTIONS)["choices"][0]["text"], prompts))
    assert together == alone


def test_chats_of_threads_are_what_they_are_alone(tiny: TinyFiles) -> None:
    llm = small(tiny, pin_system=True)

    def chat(n: int) -> str:
        messages = [{"role": "system", "content": text(8 + n, n)}, {"role": "user", "content": text(60, n)}]
        return llm.create_chat_completion(messages, **OPTIONS)["choices"][0]["message"]["content"]

    alone = [chat(n) for n in range(4)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(chat, range(4))) == alone


def test_a_stream_ends_with_an_error_when_another_text_was_read(tiny: TinyFiles) -> None:
    llm = small(tiny)
    first, second = text(40, 1), text(40, 2)
    alone = pieces(small(tiny)(second, stream=True, **OPTIONS))
    stream = llm(first, stream=True, **OPTIONS)
    next(stream)
    assert pieces(llm(second, stream=True, **OPTIONS)) == alone
    with pytest.raises(RetainError, match="this text cannot go on"):
        next(stream)
    assert pieces(llm(second, stream=True, **OPTIONS)) == alone


@pytest.mark.parametrize(
    "interruption",
    [
        lambda llm: llm.reset(),
        lambda llm: llm.eval([5]),
        lambda llm: llm.read([5, 6, 7]),
        lambda llm: llm.load_state(llm.save_state()),
        lambda llm: greedy(llm, [5, 6], 1),
    ],
)
def test_a_generator_ends_with_an_error_when_the_cache_changed(tiny: TinyFiles, interruption) -> None:
    llm = small(tiny)
    tokens = llm.generate(prompt(llm, 40), temp=0.0)
    next(tokens)
    interruption(llm)
    with pytest.raises(RetainError, match="this text cannot go on"):
        next(tokens)


def test_looking_and_steering_between_tokens_change_no_text(tiny: TinyFiles) -> None:
    llm, alone = small(tiny), small(tiny)
    start = prompt(llm, 40)
    tokens, found = llm.generate(start, temp=0.0), []
    for _ in range(12):
        found.append(next(tokens))
        llm.retention.stats()
        llm.retention.positions(0, 0)
        llm.save_state()
        llm.tokenize(b"abc")
    assert found == greedy(alone, start, 12)


def test_a_monitor_may_look_on_all_the_time(tiny: TinyFiles) -> None:
    llm, over, seen = small(tiny), threading.Event(), []

    def watch() -> None:
        while not over.is_set():
            stats = llm.retention.stats()
            assert stats.cells_kept <= stats.cells_limit
            assert len(llm.detokenize(llm.tokenize(b"abc"))) == 3
            seen.append(sum(len(llm.retention.positions(layer, 0)) for layer in llm.retention.layers))

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch)
        texts = [llm(text(200, 7), **OPTIONS)["choices"][0]["text"] for _ in range(3)]
        over.set()
        watching.result()
    assert seen and len(set(texts)) == 1
    assert texts[0] == small(tiny)(text(200, 7), **OPTIONS)["choices"][0]["text"]


def test_sampling_by_hand_after_a_text_takes_its_own_settings(tiny: TinyFiles) -> None:
    llm = small(tiny)
    tokens = prompt(llm, 40)
    (best,) = greedy(llm, tokens, 1)
    for _ in llm(text(20), max_tokens=3, temperature=5.0, stream=True):
        pass
    with pytest.raises(ZeroDivisionError):
        llm(text(20), temperature=5.0, logits_processor=LogitsProcessorList([lambda ids, logits: 1 / 0]))
    llm.reset()
    llm.eval(tokens)
    assert [llm.sample(temp=0.0) for _ in range(20)] == [best] * 20
