"""Requests that are not of the page: other names, other origins, paths in the place of numbers."""

import socket

import pytest
from served_videos import HOSTILE, URL
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from stoa.serve.guarding import Guarded


def guarded(host: str) -> TestClient:
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("in"), methods=["GET", "POST"])])
    return TestClient(Guarded(app, host), base_url=URL)


@pytest.mark.parametrize(
    "host",
    [
        "evil.com",
        "evil.com:8000",
        "127.0.0.1.evil.com",
        "localhost.evil.com:8000",
        "localhost@evil.com",
        "",
        "[::1",
        "::1",
    ]
    + ["127.0.0.1:8000:8000", "127.0.0.1:99999999", "127.0.0.1/", "0.0.0.0", "127.0.0.2", "192.168.0.9", "a b", "é"],
)
def test_another_name_is_refused(host):
    answer = guarded("127.0.0.1").get("/", headers={"Host": host.encode()})
    assert answer.status_code == 403 and "not served under that name" in answer.text
    assert answer.headers["content-security-policy"].startswith("default-src 'self'")


@pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:9000", "LOCALHOST", "[::1]:8000"])
def test_names_of_this_machine_are_ours(host):
    assert guarded("127.0.0.1").get("/", headers={"Host": host}).text == "in"


def test_two_names_or_none_are_refused(served):
    request = served.client.build_request("GET", "/")
    request.headers = type(request.headers)([("Host", "127.0.0.1"), ("Host", "evil.com")])
    assert served.client.send(request).status_code == 403


@pytest.mark.parametrize(
    ("given", "host", "status"),
    [("box.lan", "box.lan:8000", 200), ("box.lan", "other.lan", 403), ("192.168.0.9", "192.168.0.9:1", 200)]
    + [("0.0.0.0", "192.168.0.9:8000", 200), ("0.0.0.0", "[fe80::1]:8000", 200), ("0.0.0.0", "evil.com", 403)]
    + [("0.0.0.0", socket.gethostname(), 200), ("::", "10.0.0.1", 200), ("192.168.0.9", "10.0.0.1", 403)],
)
def test_what_host_names_is_ours_too(given, host, status):
    assert guarded(given).get("/", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "http://evil.com"}, {"Origin": "null"}, {"Origin": "https://127.0.0.1:8000"}]
    + [{"Origin": "http://127.0.0.1:3000"}, {"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}]
    + [{"Origin": URL, "Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "nonsense"}],
)
def test_another_origin_is_refused(served, headers):
    number = served.numbers["a.mp4"]
    post = served.client.post(f"/videos/{number}/caption", json={"start": 0, "end": 1}, headers=headers)
    assert post.status_code == 403 and "Another site" in post.text
    if "Sec-Fetch-Site" in headers:  # a page elsewhere that shows our videos
        assert served.client.get(f"/videos/{number}", headers=headers).status_code == 403


def test_our_own_page_may_post():
    headers = {"Origin": URL, "Sec-Fetch-Site": "same-origin"}
    assert guarded("127.0.0.1").post("/", headers=headers).text == "in"


def test_a_link_elsewhere_may_lead_to_the_page_alone(served):
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert served.client.get("/", headers=link).status_code == 200
    assert served.client.get("/", headers={**link, "Sec-Fetch-Dest": "iframe"}).status_code == 403
    assert served.client.get(f"/videos/{served.numbers['a.mp4']}", headers=link).status_code == 403
    assert served.client.post("/", headers=link).status_code == 403


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT"])
def test_other_methods_are_refused(served, method):
    assert served.client.request(method, "/").status_code == 405


@pytest.mark.parametrize(
    "path",
    ["/videos/../../etc/passwd", "/videos/%2e%2e/%2e%2e/etc/passwd", "/videos/..%2f..%2fetc%2fpasswd", "/videos/a.mp4"]
    + ["/videos/-1", "/videos/99", "/videos/1.0", "/videos/0x1", "/videos/%201", "/videos/" + "9" * 6000]
    + [
        "/videos/%D9%A1",
        "/videos/%00",
        "/videos/",
        "/videos//etc/passwd",
        "/videos/0/../../app.py",
        "/videos/sub/old.avi",
    ]
    + ["/static/../app.py", "/static/..%2fapp.py", "/static/%2e%2e/app.py", "/static/", "/static//etc/passwd"]
    + ["/static/page.html", "/docs", "/redoc", "/openapi.json", "/.stoa-index", "/etc/passwd", "//etc/passwd"],
)
def test_there_is_no_way_by_path(served, path):
    # As it is: the client would take dots out before it sends them.
    request = served.client.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    answer = served.client.send(request)
    assert answer.status_code == 404, answer.text
    assert set(answer.json()) == {"error"} and "root:" not in answer.text


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 422), ("start=0", 422), ("start=x&end=1", 422), ("start=nan&end=1", 404), ("start=0&end=inf", 404)]
    + [("start=0&end=1.5", 404), ("start=-1&end=1", 404), ("start=1&end=0", 404), ("start=1e999&end=1", 404)],
)
def test_only_windows_of_the_index_are_cut(served, query, status):
    answer = served.client.get(f"/videos/{served.numbers['a.mp4']}/part?{query}")
    assert answer.status_code == status and answer.json()["error"]


def test_names_and_queries_are_escaped(served):
    text = served.client.get("/", params={"q": "<script>alert(1)</script>\"'{{7*7}}"}).text
    assert "<script>alert" not in text and "&lt;script&gt;alert(1)&lt;/script&gt;&#34;&#39;{{7*7}}" in text
    assert "<b onclick" not in text and "&lt;b onclick=x&gt;&#39;&#34;&amp;{{7*7}}.mp4" in text and HOSTILE not in text


def test_every_response_says_what_browsers_may_do_with_it(served):
    number = served.numbers["a.mp4"]
    for path in ("/", "/?q=x", "/static/page.js", f"/videos/{number}", "/videos/99", "/nothing"):
        headers = served.client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self';" in policy and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "same-origin"
        assert headers["cross-origin-resource-policy"] == "same-origin" and "cache-control" in headers
        assert "server" not in headers and "access-control-allow-origin" not in headers
