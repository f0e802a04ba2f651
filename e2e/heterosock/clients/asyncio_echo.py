"""asyncio_echo serve PORT | call PORT SECONDS: streams over asyncio, 30 at once, with half-close and drain."""
import asyncio
import hashlib
import json
import sys
import time


async def echo(reader, writer):
    while data := await reader.read(30_000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(port):
    server = await asyncio.start_server(echo, "127.0.0.1", port)
    await server.serve_forever()


async def transfer(port, i):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = bytes([i]) * 200_000

    async def feed():
        for at in range(0, len(data), 7001):
            writer.write(data[at:at + 7001])
            await writer.drain()
        writer.write_eof()

    feeder = asyncio.create_task(feed())
    back = await reader.read(-1)
    await feeder
    writer.close()
    return hashlib.sha256(back).hexdigest()


async def call(port, seconds):
    said = await asyncio.gather(*(transfer(port, i) for i in range(30)))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    count, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        writer.write(b"ping")
        assert await reader.readexactly(4) == b"ping"
        count += 1
    print(json.dumps({"said": said, "rate": count / seconds}))


asyncio.run(serve(int(sys.argv[2])) if sys.argv[1] == "serve" else call(int(sys.argv[2]), float(sys.argv[3])))
