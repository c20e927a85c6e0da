"""A WebSocket client with a static token in its head and in its subprotocols."""
import asyncio
import sys
import websockets


async def main():
    headers = {"Authorization": "Bearer static-canary-bearer", "X-Api-Key": "static-canary-key"}
    async with websockets.connect(sys.argv[1], additional_headers=headers, subprotocols=["chat", "bearer.static-canary-subprotocol"], compression=None) as socket:
        for word in ("hello", "again"):
            await socket.send(word)
            print(await socket.recv())


asyncio.run(main())
