"""Finding a chat again by what was said in it."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlx_maverick.tui.store import Store
from mlx_maverick.tui.store.records import one_line
from mlx_maverick.tui.store.words import tokens

from .conftest import Clock, say, titles


def cut(text: str, hits: tuple[tuple[int, int], ...]) -> list[str]:
    return [text[start:end] for start, end in hits]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The Quick brown fox", "quick"),
        ("The quick brown fox", "FOX the"),
        ("The quick brown fox", "bro"),
        ("The quick brown fox", '"quick brown"'),
        ("The quick brown fox", '"quick bro'),
        ("Käsespätzle", "kasespatzle"),
        ("Kasespatzle", "Käsespätzle"),
        ("re\u0301sume\u0301", "résumé"),
        ("Straße", "strasse"),
        ("ΑΘΉΝΑ", "αθηνα"),
        ("我在北京工作", "北京"),
        ("東京タワーへ行く", "タワー"),
        ("안녕하세요 여러분", "하세"),
        ("สวัสดีครับ", "ครับ"),
        ("हिन्दी भाषा", "हिन्दी"),
        ("مَرْحَبًا", "مرحبا"),
        ("party 🎉🎉 time", "🎉"),
        ("I like C++ a lot", "c++"),
        ("use snake_case_names", "case"),
        ("use snake_case_names", "snake_case"),
        ("don't", "don't"),
        ("x->y; ... !!", "..."),
        ("NEAR the AND gate OR not", "AND OR NOT near"),
        ('say "hi" (now) {x}: a*b^c', '"hi" (now) {x}: a*b^c'),
        ("１２３ Ｆｕｌｌ", "123 full"),
    ],
)
def test_found(store: Store, text: str, query: str) -> None:
    say(store, "Something", text)
    say(store, "Else", "entirely different")
    assert titles(store, query) == ["Something"]
    assert titles(store, f" {query}") == ["Something"]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("The quick brown fox", "quick dog"),
        ("The quick brown fox", "row"),
        ("The quick brown fox", "bro "),
        ("The quick brown fox", '"bro"'),
        ("The quick brown fox", '"brown quick"'),
        ("The quick brown fox", "qui fox"),
        ("C and Rust", "c++"),
        ("我在北京工作", "京北"),
        ("words", "..."),
        ("party 🎉", "🎈"),
    ],
)
def test_not_found(store: Store, text: str, query: str) -> None:
    say(store, "Something", text)
    assert titles(store, query) == []


@pytest.mark.parametrize("query", ["", "  \n", "\t"])
def test_nothing_asked_is_everything(store: Store, query: str) -> None:
    say(store, "One")
    say(store, "Two")
    assert titles(store, query) == ["Two", "One"]


def test_words_may_be_apart_in_a_chat(store: Store) -> None:
    say(store, "About Rust", "It has borrow checks", "And loops?")
    say(store, "About rust on cars", "Paint it")
    assert titles(store, "rust loops") == ["About Rust"]
    assert titles(store, "about rust paint") == ["About rust on cars"]
    assert titles(store, "loops cars") == []


def test_titles_first_then_together_then_newest(store: Store) -> None:
    say(store, "Blue cats", "yes")
    say(store, "Old", "a blue cat")
    say(store, "New", "the cat is blue")
    say(store, "Apart", "blue", "cat")
    assert titles(store, "blue cat") == ["Blue cats", "New", "Old", "Apart"]
    assert [row.title for row in store.chats("blue cat", limit=2)] == ["Blue cats", "New"]
    say(store, "A blue cat again", "blue cat")
    assert titles(store, "blue cat")[:3] == ["A blue cat again", "Blue cats", "New"]
    assert len(store.chats("blue cat", limit=3)) == 3


def test_the_snippet_shows_the_hits(store: Store) -> None:
    long = "start " * 50 + "\n\n here\tstands Käse, a fine\x1b[31m käse cheese " + "end " * 50
    say(store, "Kasekuchen", long)
    [row] = store.chats("kase")
    assert cut(row.title, row.title_hits) == ["Kase"]
    assert cut(row.snippet, row.hits) == ["Käse", "käse"]
    assert row.snippet.startswith("…")
    assert row.snippet.endswith("…")
    assert "stands Käse, a fine[31m käse" in row.snippet
    assert row.hits[0][1] < 50  # in view at 60 columns


def test_the_snippet_is_where_most_words_are(store: Store) -> None:
    say(store, "x", "blue " * 3 + "word " * 100 + "the blue fine cat" + " word" * 100)
    [row] = store.chats("cat blue")
    assert set(cut(row.snippet, row.hits)) == {"blue", "cat"}
    [row] = store.chats('"fine cat"')
    assert cut(row.snippet, row.hits) == ["fine cat"]


def test_a_word_inside_another_is_no_hit(store: Store) -> None:
    say(store, "x", "concatenate a cat with cats, scat")
    assert cut((row := store.chats("cat ")[0]).snippet, row.hits) == ["cat"]
    assert cut((row := store.chats("cat")[0]).snippet, row.hits) == ["cat", "cat"]


def test_hits_in_decomposed_text(store: Store) -> None:
    """As file names on a Mac are: an accent after its letter."""
    say(store, "x", "my re\u0301sume\u0301")
    assert cut((row := store.chats("resume")[0]).snippet, row.hits) == ["résumé"]


def test_short_snippets_are_whole(store: Store) -> None:
    say(store, "x", "a blue cat")
    assert store.chats("cat")[0].snippet == "a blue cat"


def test_only_in_the_title(store: Store) -> None:
    chat = say(store, "Hello", "Hi")
    store.rename(chat, "Greetings")
    [row] = store.chats("greet")
    assert (row.snippet, row.hits, row.title_hits) == ("", (), ((0, 5),))


def test_punctuation_is_found_as_it_stands(store: Store) -> None:
    say(store, "Odd...", "what?!")
    [row] = store.chats(" ?! ")
    assert cut(row.snippet, row.hits) == ["?!"]
    assert titles(store, "...") == ["Odd..."]
    assert titles(store, "%") == titles(store, "!?") == []


def test_what_was_edited_away_is_not_found(store: Store) -> None:
    chat = say(store, "First name")
    store.rename(chat, "Second name")
    store.rename(chat, "Third")
    assert titles(store, "second") == []
    assert titles(store, "first") == ["Third"]


TEXT = st.text(
    st.one_of(
        st.sampled_from("abcäöß é_-'\"*()^:+#\n日本語한국ไทยहिم🎉👍🏽\u200d\u0301\x00\x1b"),
        st.characters(exclude_categories=("Cs",)),
    ),
    max_size=60,
)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), texts=st.lists(TEXT, min_size=1, max_size=4))
def test_what_was_written_is_found(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, texts: list[str]
) -> None:
    """Any run of tokens out of any message finds its chat, and finds only chats that have them."""
    folder = tmp_path_factory.mktemp("search")
    with Store.open(folder / "chats.db", clock=Clock()) as store:
        chats = [say(store, "start", text) for text in texts]
        wanted = data.draw(st.sampled_from(texts))
        words = tokens(wanted)
        if not words:
            return
        first = data.draw(st.integers(0, len(words) - 1))
        last = data.draw(st.integers(first, len(words) - 1))
        run = words[first : last + 1]
        for query in (" ".join(run), '"' + " ".join(run) + '"'):
            found = {row.id for row in store.chats(query)}
            assert chats[texts.index(wanted)] in found
            for chat, text in zip(chats, texts, strict=True):
                if chat in found:
                    have = [*tokens(text), "start"]
                    assert all(any(h.startswith(w) for h in have) for w in run[:16])


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(query=st.one_of(TEXT, st.text(st.sampled_from('"*+-:(){}^ ANDORNEAR'), max_size=30)))
def test_any_text_is_a_query(store: Store, query: str) -> None:
    if not store.chats():
        say(store, "Why AND how?", 'a "quoted" b* c')
    for row in store.chats(query):
        assert one_line(row.snippet) == row.snippet
        for text, hits in ((row.snippet, row.hits), (row.title, row.title_hits)):
            assert all(0 <= start < end <= len(text) for start, end in hits)


def test_a_query_may_be_long(store: Store) -> None:
    say(store, "x", "word " * 5)
    assert titles(store, "word " * 100_000) == ["x"]
    assert titles(store, "\ud83d") == []
    say(store, " ".join(f"w{i}" for i in range(16)))
    assert len(titles(store, " ".join(f"w{i}" for i in range(20)))) == 1  # no more are asked for


def test_a_long_text_is_found_by_its_end(store: Store) -> None:
    say(store, "x", "filler " * 50_000 + "needle")
    [row] = store.chats("needle")
    assert cut(row.snippet, row.hits) == ["needle"]


def test_two_stores_find_the_same(path: Path, store: Store) -> None:
    with Store.open(path) as other:
        say(store, "One apple")
        assert titles(other, "apple") == ["One apple"]
