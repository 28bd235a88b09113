"""One counter behind both interfaces of Python's web servers, WSGI and ASGI."""

count = 0


def body():
    global count
    count += 1
    return b"%d word %d" % (count, count * 7919 % 50000)


def wsgi(environ, start):
    text = body()
    start("200 OK", [("Content-Length", str(len(text)))])
    return [text]


async def asgi(scope, receive, send):
    if scope["type"] == "http":
        text = body()
        headers = [(b"content-length", str(len(text)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": text})
