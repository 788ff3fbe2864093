"""The page of a value: what it tells of a node, how a value is sent in parts, and what is downloaded."""

from __future__ import annotations

import base64
import html
import json
import pathlib
import re
import urllib.parse
from typing import Any

import httpx
import pytest

from contextstore import ContextStore

from ..contract.test_damaged import damage
from ..contract.test_damaged import output as of_output

HOSTILE = [
    '<script>alert("1")</script>',
    '"><img src=x onerror=alert(1)>',
    "../..",
    "a/b?c#d%2f&e=f",
    "\u202eevil",
    "\x1b[",
]


ON_A_FILE = pytest.mark.parametrize("target", ["file"], indirect=True)
"""For what the engine has no part in."""


def show(http: httpx.Client, node: str, **parameters: Any) -> httpx.Response:
    return http.get("/node", params={"run": "run", "id": node, **parameters})


def text_of(answer: httpx.Response) -> str:
    """What a page says: without its marks, and with the spaces between its words as one."""
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", answer.text)).split())


def neighbours(answer: httpx.Response) -> list[tuple[str, str]]:
    return re.findall(r'rel="(prev|next)" href="[^"]*id=([^"]*)"', answer.text)


def links(answer: httpx.Response, name: str) -> list[str]:
    return [html.unescape(one) for one in re.findall(rf'href="([^"]*)" {name}', answer.text)]


class TestHead:
    def test_a_node_is_told_with_its_size_its_tag_and_its_neighbours(
        self, store: ContextStore, http: httpx.Client
    ) -> None:
        store.put("run", "a", 1)
        store.put("run", "b", {"rows": 3}, tag="text/x-<b>")
        store.put("run", "c", 1)
        said = text_of(show(http, "b"))
        assert "Size 10 B Tag text/x-<b>" in said
        assert neighbours(show(http, "b")) == [("prev", "a"), ("next", "c")]
        assert "rows 3" in said
        assert neighbours(show(http, "a")) == [("next", "b")]
        assert neighbours(show(http, "c")) == [("prev", "b")]

    def test_a_step_is_told_with_the_attempts_that_failed(self, store: ContextStore, http: httpx.Client) -> None:
        errors = [OSError("no <route>"), OSError("refused"), None]

        def flaky() -> str:
            error = errors.pop(0)
            if error is not None:
                raise error
            return "done"

        for _ in range(2):
            with pytest.raises(OSError, match=r"no <route>|refused"):
                store.run("run").step("fetch", flaky)
        so_far = show(http, "fetch")
        assert so_far.status_code == 404
        assert "No output yet" in so_far.text
        assert "OSError: no <route>" in text_of(so_far)
        assert store.run("run").step("fetch", flaky) == "done"
        said = text_of(show(http, "fetch"))
        assert re.search(r"Made by attempt 3, in \d+ m?s Failed before 2", said)
        assert "the last one: OSError: refused" in said
        assert re.search(r"1 \d+ s ago took \d+ m?s OSError: no <route>|1 now took \d+ m?s OSError: no <route>", said)

    def test_what_is_not_there_is_told_as_what_it_is(self, store: ContextStore, http: httpx.Client) -> None:
        store.put_many("run", {"a": 1, "b": 2})
        store.delete_outputs("run", ["b"])
        store.put("gone", "a", 1)
        store.delete_run("gone")
        assert (show(http, "never").status_code, show(http, "b").status_code) == (404, 410)
        assert "Nothing was written under this id in this run so far" in show(http, "never").text
        assert "the output of node b of run run was deleted" in show(http, "b").text
        assert "run gone was deleted" in http.get("/node?run=gone&id=a").text
        assert "there is no run nowhere" in http.get("/node?run=nowhere&id=a").text
        assert http.get("/node.json?run=nowhere&id=a").json() == {"error": "there is no run nowhere"}
        assert http.get("/node?run=run").status_code == 400
        assert http.get(f"/node?run=run&id={'x' * 2000}").status_code == 400

    def test_a_damaged_output_is_told_and_the_others_can_be_gone_to(
        self, store: ContextStore, http: httpx.Client, request: pytest.FixtureRequest, target: str
    ) -> None:
        store.put_many("run", {"a": 1, "b": 2, "c": 3})
        location = target if "://" in target else pathlib.Path(target)
        damage(location, request, "node_outputs", "checksum = checksum + 1", of_output("run", "b"))
        answer = show(http, "b")
        assert answer.status_code == 500
        assert "This output is there, and is damaged" in answer.text
        assert neighbours(answer) == [("prev", "a"), ("next", "c")]
        told = http.get("/node.json?run=run&id=b").json()
        assert (told["flow_run_id"], told["node_id"]) == ("run", "b")
        assert "damaged" in told


@ON_A_FILE
class TestTree:
    def test_a_small_value_is_shown_whole_and_exactly(self, store: ContextStore, http: httpx.Client) -> None:
        value = {"int": 2**64 - 1, "float": 1e300, "neg": -0.0, "t": True, "n": None, "s": 'q"\n', "e": [{}, []], "": 0}
        store.put("run", "a", value)
        said = text_of(show(http, "a"))
        for text in ("int 18446744073709551615", "float 1e+300", "neg -0.0", "t true", "n null", r's "q\"\n"', '"" 0'):
            assert text in said
        assert "e [2]" in said
        assert "0 {} 1 []" in said
        assert "more" not in said.partition("Copy")[2]

    @pytest.mark.parametrize("value", [None, 0, "", {}, [], False, "text", b""])
    def test_what_has_no_children_is_shown_as_itself(self, store: ContextStore, http: httpx.Client, value: Any) -> None:
        store.put("run", "a", value)
        answer = show(http, "a")
        assert answer.status_code == 200
        shown = "No bytes" if value == b"" else value if isinstance(value, str) else json.dumps(value)
        assert shown in text_of(answer)

    def test_hostile_keys_and_values_stay_text(self, store: ContextStore, http: httpx.Client) -> None:
        store.put("run", "a", {one: {"in": one, "list": [one]} for one in HOSTILE})
        for one in HOSTILE:
            store.put("run", one, one, tag="<b>")
            for parameters in ({}, {"find": one}):
                answer = http.get("/node", params={"run": "run", "id": one, **parameters})
                assert answer.status_code == 200
                assert "<script>alert" not in answer.text
                assert "<img" not in answer.text
                assert not {"\u202e", "\x1b"} & set(text_of(answer))
        answer = show(http, "a", find="i")
        assert "<script>alert" not in answer.text
        assert "<img" not in answer.text
        assert not {"\u202e", "\x1b"} & set(text_of(answer))
        for one in HOSTILE:
            token = one.replace("~", "~0").replace("/", "~1")
            assert http.get("/node.json", params={"run": "run", "id": "a", "at": f"/{token}/in"}).json()["value"] == one

    def test_a_wide_value_comes_in_parts_that_join(self, store: ContextStore, http: httpx.Client) -> None:
        store.put("run", "a", {"list": list(range(1000, 1450)), "k": {f"key-{n}": n for n in range(300)}})
        answer = show(http, "a", at="/list")
        seen, address = re.findall(r'"number">(\d+)<', answer.text), links(answer, "data-more")
        while address:
            answer = http.get(
                address[0], params={**dict(httpx.QueryParams(address[0].partition("?")[2])), "fragment": "branch"}
            )
            assert "<html" not in answer.text
            seen += re.findall(r'"number">(\d+)<', answer.text)
            address = links(answer, "data-more")
        assert seen == [str(number) for number in range(1000, 1450)]

    def test_a_link_to_a_folded_part_opens_it_as_a_page_with_the_way_back(
        self, store: ContextStore, http: httpx.Client
    ) -> None:
        value: Any = "the bottom"
        for number in range(250):
            value = {f"a/{number}": value} if number % 2 else [value]
        store.put("run", "deep", value)
        address, looks = "/node?run=run&id=deep", 0
        while 'class="string">' not in (answer := http.get(address)).text:
            (address,) = links(answer, "data-more")
            looks += 1
        assert looks == 24
        assert "value / a/249 / 0 / a/247 / 0 / … / " in text_of(answer)
        assert "the bottom" in text_of(show(http, "deep", find="BOTTOM")).partition("place with BOTTOM")[2]

    def test_a_long_string_is_cut_and_read_on(self, store: ContextStore, http: httpx.Client) -> None:
        text = "".join(f"line {number}\n" for number in range(5000))
        store.put("run", "a", {"s": text, "other": "\u202e\x00" * 20_000})
        answer = show(http, "a")
        assert "string, 48,890 characters" in text_of(answer)
        (address, _) = links(answer, "data-whole")
        parts = []
        while True:
            answer = http.get(address)
            parts += re.findall(r"<pre[^>]*>(.*?)</pre>", answer.text, re.DOTALL)
            following = links(answer, "data-more")
            if not following:
                break
            (address,) = following
        assert html.unescape("".join(parts)) == text
        assert r"\u202e\u0000" in show(http, "a", at="/other").text

    def test_a_place_that_is_not_there_is_told(self, store: ContextStore, http: httpx.Client) -> None:
        store.put("run", "a", {"a": [1]})
        store.put("run", "b", b"1")
        for node, at in (("a", "/b"), ("a", "/a/1"), ("a", "a"), ("a", "/~"), ("b", "/0")):
            assert show(http, node, at=at).status_code == 404
        assert http.get("/node.json?run=run&id=a&at=/b").json() == {
            "error": "there is no 'b' at that place of the value"
        }
        assert show(http, "a", fragment="nothing").status_code == 400
        assert show(http, "a", offset="x").status_code == 400

    def test_the_twin_has_the_whole_value_or_a_part(self, store: ContextStore, http: httpx.Client) -> None:
        value = {"rows": [{"a/b~": 2**63}, None], "x": 0.1}
        store.put("run", "a", value, tag="t")
        store.put("run", "b", b"\x00\xff")
        whole = http.get("/node.json?run=run&id=a").json()
        assert (whole["value"], whole["tag"], whole["size"]) == (
            value,
            "t",
            len('{"rows":[{"a/b~":9223372036854775808},null],"x":0.1}'),
        )
        part = http.get("/node.json", params={"run": "run", "id": "a", "at": "/rows/0/a~1b~0"}).json()
        assert part == {**whole, "value": 2**63}
        assert base64.b64decode(http.get("/node.json?run=run&id=b").json()["base64"]) == b"\x00\xff"


WORST = [
    {"k" * 5000 + str(n): {"k" * 5000: n} for n in range(300)},
    {f"{n}": '&"' * 4000 for n in range(300)},
    ["\U000e0001" * 9000] * 200,
    "\U000e0001" * 50_000,
    [[[[n] * 100] * 20] * 100 for n in range(20)],
    [{f"&{'x' * 100}{n}": {"<": "&"} for n in range(100)}] * 100,
    bytes(100_000),
]


@ON_A_FILE
@pytest.mark.parametrize("number", range(len(WORST)))
def test_no_page_of_a_value_is_larger_than_it_may_be(store: ContextStore, http: httpx.Client, number: int) -> None:
    store.put("run", "a", WORST[number])
    answer = show(http, "a")
    assert answer.status_code == 200
    assert len(answer.content) <= 120_000
    assert len(show(http, "a", find="x").content) <= 200_000


@ON_A_FILE
def test_a_search_leads_to_places(store: ContextStore, http: httpx.Client) -> None:
    store.put(
        "run", "a", {"rows": [{"name": f"customer {n}", "a/b": "<b>" if n else "Customer-x"} for n in range(300)]}
    )
    answer = show(http, "a", find="CUSTOMER-")
    assert "1 place with CUSTOMER-" in text_of(answer)
    assert "/rows/0/a~1b Customer- x" in text_of(answer)
    (address,) = [html.unescape(one) for one in re.findall(r'class="mono" href="([^"]*)"', answer.text)]
    assert "Customer-x" in http.get(address).text
    many = show(http, "a", find="name")
    assert "100 or more places" in text_of(many)
    assert "The search ended after" in many.text
    assert "Nothing here has" in show(http, "a", find="nowhere").text
    assert "1 place with Customer-" in text_of(show(http, "a", find="Customer-", at="/rows/0"))


@ON_A_FILE
class TestBytes:
    def test_they_are_shown_in_rows_and_leafed_through(self, store: ContextStore, http: httpx.Client) -> None:
        data = bytes(range(256)) * 40
        store.put("run", "a", data)
        answer, shown = show(http, "a"), b""
        while True:
            shown += b"".join(bytes.fromhex(row) for row in re.findall(r"<td>([0-9a-f ]*)</td>", answer.text))
            following = re.search(r'rel="next" href="([^"]*offset=[^"]*)"', answer.text)
            if following is None:
                break
            answer = http.get(html.unescape(following[1]))
        assert shown == data
        assert "10,240 bytes" in answer.text

    @pytest.mark.parametrize(("offset", "row"), [("0x1234", "00001230"), ("100", "00000060"), ("999999", "000027f0")])
    def test_a_place_in_them_is_gone_to(self, store: ContextStore, http: httpx.Client, offset: str, row: str) -> None:
        store.put("run", "a", bytes(10_240))
        assert re.findall(r'scope="row">(\w+)', show(http, "a", offset=offset).text)[0] == row
        assert show(http, "a", offset="12; DROP").status_code == 400

    def test_markup_among_them_stays_text(self, store: ContextStore, http: httpx.Client) -> None:
        store.put("run", "a", b"<script>alert(1)")
        assert "&lt;script&gt;alert(1)" in show(http, "a").text


@ON_A_FILE
class TestFiles:
    @pytest.mark.parametrize(
        ("node", "name"),
        [
            ("survey/report", "survey_report"),
            ('a"; filename="x.html', "a__ filename=_x.html"),
            ("../../etc/passwd", "_.._etc_passwd"),
            ("résumé", "résumé"),
            ("\u202egpj.exe\r\nSet-Cookie: a", "_gpj.exe__Set-Cookie_ a"),
            ("..", "json"),
            ("x" * 1000, "x" * 100),
        ],
    )
    def test_their_names_are_safe_and_nothing_is_shown_as_a_page(
        self, store: ContextStore, http: httpx.Client, node: str, name: str
    ) -> None:
        store.put("run", node, {"html": "<script>"})
        answer = show(http, node, **{"as": "file"})
        assert answer.json() == {"html": "<script>"}
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-content-type-options"] == "nosniff"
        found = re.fullmatch(
            r"attachment; filename=\"([A-Za-z0-9._-]+)\"; filename\*=UTF-8''([A-Za-z0-9._~%-]+)",
            answer.headers["content-disposition"],
        )
        assert found is not None
        assert urllib.parse.unquote(found[2]) == (f"{name}.json"[:100] if name != "json" else "json")
        assert found[1] == re.sub("[^A-Za-z0-9._-]", "_", urllib.parse.unquote(found[2]))

    def test_bytes_are_downloaded_as_they_are(self, store: ContextStore, http: httpx.Client) -> None:
        data = b"<html><script>\x00\xff"
        for node, name in (("page.html", "page.html"), ("data", "data.bin")):
            store.put("run", node, data)
            answer = show(http, node, **{"as": "file"})
            assert answer.content == data
            assert answer.headers["content-type"] == "application/octet-stream"
            assert f'attachment; filename="{name}"' in answer.headers["content-disposition"]

    def test_a_part_is_a_file_of_its_own(self, store: ContextStore, http: httpx.Client) -> None:
        store.put("run", "a", {"a": [1, "<\u2028é"]})
        assert show(http, "a", at="/a", **{"as": "file"}).text == '[1,"<\u2028é"]'
        assert show(http, "a", at="/b", **{"as": "file"}).status_code == 404


class TestStateValues:
    def test_a_state_value_is_shown_as_a_node_is(self, store: ContextStore, http: httpx.Client) -> None:
        run = store.run("run")
        run.upsert_state("cursor", {"page": 1})
        run.upsert_state("cursor", {"page": 2, "seen": list(range(300))})
        run.upsert_state("cursor-2", 1)
        answer = http.get("/state?run=run&key=cursor")
        assert "Version 2" in text_of(answer)
        assert "page 2" in text_of(answer)
        twin = http.get("/state.json?run=run&key=cursor&at=/page").json()
        assert (twin["key"], twin["value"], twin["version"]) == ("cursor", 2, 2)
        more = http.get(links(http.get("/state?run=run&key=cursor&at=/seen"), "data-more")[0])
        assert '"number">299<' in http.get(links(more, "data-more")[0]).text
        assert http.get("/state?run=run&key=cursor&as=file").json()["page"] == 2

    def test_a_state_value_that_is_not_there_is_told(self, store: ContextStore, http: httpx.Client) -> None:
        store.run("run").upsert_state("", "the empty key")
        assert "the empty key" in http.get("/state?run=run&key=").text
        assert http.get("/state?run=run&key=x").status_code == 404
        assert "has no state value x" in http.get("/state?run=run&key=x").text
