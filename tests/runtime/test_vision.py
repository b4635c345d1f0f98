"""Pictures in a cache that evicts: what is reused, taken back and saved, and what is refused."""

from __future__ import annotations

import base64
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from llama_cpp.llama_chat_format import MTMDChatHandler
from llama_cpp.llama_speculative import LlamaPromptLookupDecoding

from retain_local import Llama
from retain_local.errors import RetainError, UsageError
from retain_local.vision.layout import Layout
from retain_local.vision.projector import ReadImage
from retain_local.vision.source import read_image, read_image_file
from support.llamas import greedy, kept, load, text
from support.pictures import real_pictures, write_png
from support.tiny_models import TINY_MODELS, write_tiny_model
from support.tiny_vision import TINY_VISION, TinyProjector, TinyVision, write_tiny_projector, write_tiny_vision

SMALL = {"budget": 64, "n_ubatch": 16, "policy": "window"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("vision")
    for kind, vision in TINY_VISION.items():
        (folder / kind).mkdir()
        write_tiny_vision(folder / kind, vision)
    for seed in range(3):
        write_png(folder / f"{seed}.png", 300, 180, seed)
    return folder


def loaded(folder: Path, kind: str = "qwen2vl", **options: Any) -> Llama:
    return load(next((folder / kind).glob("[!m]*.gguf")), **options)


def image(llm: Llama, folder: Path, seed: int = 0) -> ReadImage:
    path = folder / f"{seed}.png"
    return llm.projector.read(read_image_file(path), path.name)


def words(llm: Llama, n: int, seed: int, add_bos: bool = False) -> list[int]:
    return llm.tokenize(text(n, seed).encode(), add_bos=add_bos)


def around(llm: Llama, picture: ReadImage, before: int = 20, after: int = 30) -> list[int]:
    return [*words(llm, before, 1, add_bos=True), *picture.tokens, *words(llm, after, 2)]


@pytest.mark.parametrize("kind", TINY_VISION)
def test_what_was_read_before_changes_nothing(folder: Path, kind: str) -> None:
    """A prompt after others leaves the cells and writes the text of a fresh model, whatever they had in common."""
    options = SMALL | {"n_ubatch": 16 if TINY_VISION[kind].is_causal else 64}
    llm = loaded(folder, kind, **options)
    pictures = [image(llm, folder, seed) for seed in range(3)]
    first = around(llm, pictures[0])
    prompts = [
        first,
        [*first, *words(llm, 40, 3)],  # goes on
        around(llm, pictures[1]),  # another picture of the same size
        [*first, *pictures[2].tokens, *words(llm, 5, 4)],
        [*first[: len(first) - 10], *words(llm, 20, 5)],
        [*words(llm, 20, 1, add_bos=True), *pictures[0].tokens],  # ends with a picture
        [*pictures[1].tokens, *pictures[1].tokens],
    ]
    for prompt in prompts:
        found = greedy(llm, prompt, 12)
        other = loaded(folder, kind, **options)
        held = [image(other, folder, seed) for seed in range(3)]
        assert found == greedy(other, prompt, 12)
        assert kept(llm) == kept(other)
        del held
        other.close()
    llm.close()


def test_a_prompt_that_goes_on_reads_no_picture_again(folder: Path) -> None:
    llm = loaded(folder, policy="none")
    picture = image(llm, folder)
    prompt = around(llm, picture)
    llm.read(prompt)
    assert llm.cached_prefix([*prompt, *words(llm, 9, 7)]) >= llm.layout.placed[0].stop
    # within the picture there is nowhere to cut
    picture = image(llm, folder, 1)
    other = around(llm, picture)
    assert llm.cached_prefix(other) == llm.layout.placed[0].start
    llm.close()


@pytest.mark.parametrize("budget", [64, None])
def test_a_handler_of_the_bindings_reads_as_any_prompt_is_read(folder: Path, budget: int | None) -> None:
    """What it read before is used again, pictures too, and changes nothing; streams and saved prompts are the same."""
    projector = next((folder / "qwen2vl").glob("mmproj*"))

    def with_handler() -> Llama:
        handler = MTMDChatHandler(str(projector), verbose=False)
        return loaded(folder, **SMALL | {"budget": budget}, chat_handler=handler)

    content = [
        {"type": "image_url", "image_url": {"url": (folder / "0.png").as_uri()}},
        {"type": "text", "text": "what is it"},
    ]
    first = [{"role": "user", "content": content}]
    llm, fresh = with_handler(), with_handler()
    settings: dict[str, Any] = {"max_tokens": 8, "temperature": 0}
    reply = llm.create_chat_completion(first, **settings)["choices"][0]["message"]
    second = [*first, reply, {"role": "user", "content": "and now"}]
    read: list[int] = []
    llm.on_prompt = lambda _, total: read.append(total)
    again = llm.create_chat_completion(second, **settings)["choices"][0]["message"]
    assert again == fresh.create_chat_completion(second, **settings)["choices"][0]["message"]
    assert kept(llm) == kept(fresh)
    if budget is None:
        assert max(read) < 66  # the picture was not read again
    chunks = llm.create_chat_completion(second, stream=True, **settings)
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == again["content"]
    # and its prompt is that of the model's own template
    own = loaded(folder, **SMALL | {"budget": budget})
    own.create_chat_completion(second, **settings)
    assert own.input_ids[: own.n_tokens].tolist() == llm.input_ids[: llm.n_tokens].tolist()
    for each in (llm, fresh, own):
        each.close()


def test_tokens_stand_for_what_the_picture_is(folder: Path, tmp_path: Path) -> None:
    llm, other = loaded(folder), loaded(folder)
    assert image(llm, folder).tokens == image(other, folder).tokens != image(llm, folder, 1).tokens
    copy = tmp_path / "copy.png"
    copy.write_bytes((folder / "0.png").read_bytes())
    assert llm.projector.read(read_image_file(copy), "copy").tokens == image(llm, folder).tokens
    # a projector with other weights sees something else
    projector = TinyProjector("qwen2vl_merger", seed=1)
    path = write_tiny_projector(tmp_path / "mmproj.gguf", TinyVision(TINY_VISION["qwen2vl"].text, projector))
    third = loaded(folder, mmproj=path)
    assert image(third, folder).tokens != image(llm, folder).tokens
    for each in (llm, other, third):
        each.close()


def test_positions_of_a_picture(folder: Path) -> None:
    """With M-RoPE what follows a picture goes on after its longer side, and else after all of its tokens."""
    for kind, n_positions in (("qwen2vl", 11), ("janus_pro", 64)):
        llm = loaded(folder, kind, policy="none")
        picture = image(llm, folder)
        prompt = around(llm, picture)
        llm.read(prompt)
        n = len(picture.pictures[0].tokens)
        layout = llm.layout
        (placed,) = layout.placed
        assert placed.positions == (placed.start, placed.start + n_positions)
        assert layout.position(len(prompt)) == len(prompt) - n + n_positions
        for at in (0, placed.start, placed.stop, placed.stop + 5):
            assert layout.token(layout.position(at)) == at
        assert llm._last_position() == layout.last_position(len(prompt)) == layout.position(len(prompt)) - 1
        llm.close()


@pytest.mark.parametrize("kind", ["qwen2vl", "janus_pro"])
def test_an_interrupted_picture_is_taken_back(folder: Path, kind: str) -> None:
    """Ctrl-C in the middle of a picture: the next prompt is read as if nothing had been."""
    llm = loaded(folder, kind, **SMALL)
    picture, other = image(llm, folder), image(llm, folder, 1)
    prompt = around(llm, picture)

    def stop(n_read: int, _n: int) -> None:
        if n_read > 30:
            raise KeyboardInterrupt

    llm.on_prompt = stop
    with pytest.raises(KeyboardInterrupt):
        llm.read(prompt)
    llm.on_prompt = None
    assert llm.layout.place_before(llm.n_tokens) == llm.n_tokens
    fresh = loaded(folder, kind, **SMALL)
    held = [image(fresh, folder, seed) for seed in range(2)]
    for again in (prompt, around(llm, other, after=4)):
        assert greedy(llm, again, 8) == greedy(fresh, again, 8)
        assert kept(llm) == kept(fresh)
    del held
    llm.close()
    fresh.close()


def test_more_text_after_a_leftover_reads_the_picture_as_a_picture(folder: Path) -> None:
    """`eval` repairs a cache that cannot be cut back by reading the text again, pictures and all."""
    llm = loaded(folder, **SMALL)
    picture = image(llm, folder)
    prompt = around(llm, picture, after=60)
    llm.read(prompt)
    placed = llm.layout.placed
    del picture  # the cache holds it
    llm.n_tokens -= 50  # as a caller does who takes text back
    more = words(llm, 5, 8)
    expected = [*prompt[: llm.n_tokens], *more]
    n_evictions = llm.retention.stats().evictions
    llm.eval(more)
    assert llm.input_ids[: llm.n_tokens].tolist() == expected
    assert llm.layout.placed == placed
    assert llm.retention.stats().evictions > n_evictions  # it was read again
    llm.close()


def test_a_saved_state_has_its_pictures(folder: Path) -> None:
    """It is gone on with after other text, in another model, and after it was pickled, when nobody else has them."""
    llm = loaded(folder, **SMALL)
    picture = image(llm, folder)
    prompt = around(llm, picture)
    llm.read(prompt)
    del picture
    state = llm.save_state()
    expected = greedy(llm, [*prompt, *words(llm, 6, 9)], 10)
    llm.reset()
    llm.eval(words(llm, 30, 4))

    other = loaded(folder, **SMALL)
    for model, saved in ((llm, state), (other, pickle.loads(pickle.dumps(state)))):
        model.load_state(saved)
        del saved
        assert greedy(model, [*prompt, *words(model, 6, 9)], 10) == expected
    llm.close()
    other.close()


def test_what_is_neither_token_nor_picture_is_refused(folder: Path) -> None:
    llm = loaded(folder, policy="none")
    picture = image(llm, folder)
    whole = picture.pictures[0].tokens
    for tokens in ([-5], whole[:-1], whole[3:], [*whole[:4], 7]):
        with pytest.raises(UsageError, match="is not a token of this model"):
            llm.eval([1, *tokens])
        with pytest.raises(UsageError, match="is not a token of this model"):
            llm.create_completion([1, *tokens])
    assert llm.n_tokens == 0
    tokens = [1, *whole, 70]
    llm.eval(tokens)
    llm.reset()
    llm.eval([70])
    del picture  # nobody holds it any more
    with pytest.raises(UsageError, match="is not a token of this model"):
        llm.eval(tokens)
    llm.close()


def test_a_picture_that_is_computed_at_once_needs_room(folder: Path) -> None:
    """The ubatch is made as large as the projector says; one that was chosen smaller is said before anything is read."""
    llm = loaded(folder, "gemma3", policy="window", budget=64, n_ubatch=None)
    assert llm.options.n_ubatch == 64 == image(llm, folder).pictures[0].n_tokens
    llm.close()
    llm = loaded(folder, "gemma3", policy="window", budget=64, n_ubatch=32)
    picture = image(llm, folder)
    with pytest.raises(RetainError, match=r"the picture is 64 tokens.*--ubatch 64"):
        llm.create_completion(around(llm, picture))
    assert llm.n_tokens == 0
    llm.close()


def test_the_policy_none_says_when_a_picture_does_not_fit(folder: Path) -> None:
    llm = loaded(folder, policy="none", budget=48)
    picture = image(llm, folder)
    with pytest.raises(RetainError, match="policy none never evicts"):
        llm.create_completion(around(llm, picture))
    llm.close()


def ask(llm: Llama, address: str) -> dict[str, Any]:
    content = [{"type": "image_url", "image_url": address}, {"type": "text", "text": "what is it"}]
    return llm.create_chat_completion([{"role": "user", "content": content}], max_tokens=2, temperature=0)


@pytest.mark.skipif(not real_pictures(), reason="needs the pictures of matplotlib, or RETAIN_IMAGES_DIR")
def test_real_pictures(folder: Path) -> None:
    """Each is read, as a path and as a URL of either kind, or refused in one line; in a cache smaller than it is."""
    llm = loaded(folder, **SMALL | {"n_ctx": 4096})
    for path in real_pictures():
        data = f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
        try:
            read = [
                ask(llm, address)["choices"][0]["message"]["content"] for address in (str(path), path.as_uri(), data)
            ]
        except RetainError as error:
            assert "\n" not in str(error) and re.search("damaged|is no picture", str(error)), error
        else:
            assert read[0] == read[1] == read[2] and llm.layout.pictures[0].n_tokens > 8
            stats = llm.retention.stats()
            assert stats.cells_peak <= stats.cells_limit
    llm.close()


def wrong_files(folder: Path) -> dict[str, tuple[Path, str]]:
    def file(name: str, content: bytes) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    png = write_png(folder / "right.png", 40, 30).read_bytes()
    head = b"\xff\xd8\xff\xc0\x00\x11\x08\x00\x40\x00\x40\x03" + bytes(9)
    return {
        "missing": (folder / "none.png", "No such file"),
        "folder": (folder, "Is a directory"),
        "empty": (file("empty.png", b""), "is empty, so it is no picture"),
        "text": (file("text.png", b"hello"), "is no picture: pictures are read as PNG, JPEG, GIF or BMP"),
        "webp": (file("a.webp", b"RIFF\x10\0\0\0WEBPVP8 "), "is a WebP picture or a sound"),
        "header": (file("header.png", png[:20]), "is damaged"),
        "half": (file("half.png", png[: len(png) // 2]), "cannot be read as a picture: it is damaged"),
        "pixels": (write_png(folder / "pixels.png", 40, 30, pixels=b"no"), "it is damaged"),
        "jpeg": (file("cut.jpg", head + b"\xff\xda" + bytes(50)), "the file ends before the picture does"),
        "large": (write_png(folder / "large.png", 40_000, 40_000, pixels=b""), "is 40,000 by 40,000 pixels"),
    }


def test_what_is_no_picture_is_one_line(folder: Path, tmp_path: Path) -> None:
    llm = loaded(folder, **SMALL)
    addresses = {name: (str(path), reason) for name, (path, reason) in wrong_files(tmp_path).items()} | {
        "network": ("https://example.org/a.png", "pictures are not fetched from the network"),
        "no base64": ("data:image/png;base64,@@", "is not Base64"),
        "no data": ("data:image/png,abc", "is no data URL of a picture"),
        "nothing": ("", "a picture in a message is"),
    }
    for name, (address, reason) in addresses.items():
        with pytest.raises(RetainError, match=re.escape(reason)) as caught:
            ask(llm, address)
        assert "\n" not in str(caught.value), name
    assert llm.n_tokens == 0  # and nothing was read
    assert len(ask(llm, str(folder / "0.png"))["choices"]) == 1
    llm.close()


def test_any_shape_of_picture_is_read(folder: Path, tmp_path: Path) -> None:
    llm = loaded(folder, **SMALL)
    for width, height in ((1, 1), (1, 900), (900, 1), (10, 10)):
        read_image(str(write_png(tmp_path / "a.png", width, height)))
        assert ask(llm, str(tmp_path / "a.png"))["usage"]["completion_tokens"] == 2
    llm.close()


def test_projectors_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    model = next((folder / "qwen2vl").glob("[!m]*.gguf"))
    sound = write_tiny_projector(tmp_path / "sound.gguf", TINY_VISION["qwen2vl"], has_vision=False)
    cases = [
        (tmp_path / "none.gguf", "no such projector"),
        (folder / "0.png", "GGUF"),
        (model, "is no projector (mmproj) but a model of the architecture 'qwen2vl'"),
        (sound, "is a projector without a part for pictures"),
        (next((folder / "qwen3vl").glob("mmproj*")), "is the projector of another model: mismatch between text model"),
    ]
    for path, reason in cases:
        with pytest.raises(RetainError, match=re.escape(reason)) as caught:
            load(model, mmproj=path)
        assert "\n" not in str(caught.value)
    llama = write_tiny_model(tmp_path / "llama.gguf", TINY_MODELS["llama"])
    with pytest.raises(RetainError, match="belongs to a model with M-RoPE"):
        load(llama, mmproj=next((folder / "qwen2vl").glob("mmproj*")))
    llm = load(llama, policy="none")
    with pytest.raises(RetainError, match=r"several projectors are beside|there is no mmproj\*\.gguf beside"):
        ask(llm, str(folder / "0.png"))
    for name in ("mmproj-a.gguf", "llama.mmproj-b.gguf"):
        write_tiny_projector(tmp_path / name, TINY_VISION["janus_pro"])
    (tmp_path / "sound.gguf").unlink()
    assert ask(llm, str(folder / "0.png"))["usage"]["prompt_tokens"] > 64  # the one that is named like the model
    llm.close()


@pytest.mark.parametrize("budget", [64, None])
def test_drafts_stop_where_a_picture_begins(folder: Path, budget: int | None) -> None:
    """Prompt lookup finds the words before a picture again, and what followed them is not drafted."""
    options = SMALL | {"budget": budget}
    plain = loaded(folder, **options)
    drafted = loaded(folder, **options, draft_model=LlamaPromptLookupDecoding(2, 20), logits_all=True)
    found = []
    for llm in (plain, drafted):
        picture = image(llm, folder)
        prompt = [*words(llm, 12, 1, add_bos=True), *picture.tokens, *words(llm, 12, 1), *words(llm, 12, 1)]
        found.append(greedy(llm, prompt, 40))
        llm.close()
    assert found[0] == found[1]


def test_a_projector_that_llama_cpp_would_end_the_process_over(folder: Path, tmp_path: Path) -> None:
    """It is found out when a picture is read, and the model goes on."""
    vision = TINY_VISION["qwen2vl"]
    wrong = TinyVision(vision.text, replace(vision.projector, n_layer=0))
    model = next((folder / "qwen2vl").glob("[!m]*.gguf"))
    llm = load(model, mmproj=write_tiny_projector(tmp_path / "mmproj.gguf", wrong), policy="none")
    with pytest.raises(RetainError, match="the projector cannot read the picture"):
        ask(llm, str(folder / "0.png"))
    assert llm.create_completion("hello", max_tokens=2)["usage"]["completion_tokens"] == 2
    llm.close()


def test_a_layout_without_pictures_is_text() -> None:
    layout = Layout()
    assert [layout.position(n) for n in (0, 3, 9)] == [0, 3, 9] == [layout.token(n) for n in (0, 3, 9)]
    assert layout.next_edge(4, 10) == 10 and layout.last_edge(4) == 0 and layout.place_before(4) == 4
