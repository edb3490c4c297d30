"""An IMAP server in memory for the demo: pymap on a loopback port, a Junk folder, and keywords that are kept.

pymap 0.36.7 announces no keywords (`PERMANENTFLAGS` without `\\*`) and drops them on STORE, though its storage holds
any flag. `_keep_keywords` changes that one property, and the version is pinned because of it. No TLS: 127.0.0.1 alone.

    python -m mailtagger.demo_server alice bob      prints PORT=<n> when it listens; ends when its standard input closes
"""

import asyncio
import os
import sys
from argparse import Namespace
from asyncio import StreamReader, StreamWriter

PASSWORD = "secret"


def _keep_keywords() -> None:
    """Puts `\\*` among the permanent flags of every folder (RFC 3501, 7.1: new keywords may be created)."""
    from pymap.backend.dict.mailbox import MailboxData
    from pymap.parsing.specials.flag import Recent, Wildcard, get_system_flags

    MailboxData.permanent_flags = property(lambda _: (get_system_flags() - {Recent}) | {Wildcard})


async def serve(users: list[str], folders: tuple[str, ...] = ("Junk", "Archive")) -> None:
    """Listens, says where, and returns when standard input is closed: so the server cannot outlive who started it."""
    from proxyprotocol.sock import SocketInfo
    from pymap.backend.dict import Config, Identity, Login
    from pymap.imap import IMAPServer
    from pymap.user import Passwords, UserMetadata

    _keep_keywords()
    os.environ["FQDN"] = "localhost"  # the greeting would ask the resolver, which can hang without a network
    config = Config(
        Namespace(passlib_cfg=None, proxy_protocol=None),
        host="127.0.0.1",
        port=0,
        tls_enabled=False,
        demo_data=False,
        demo_user="",
        demo_password="",
    )
    config.apply_context()
    login = Login(config)
    hashed = await Passwords(config).hash_password(PASSWORD)
    for user in users:
        identity = Identity(user, login, None, frozenset({"admin"}))
        await identity.set(UserMetadata(config, user, password=hashed))
        async with identity.new_session() as session:
            for folder in folders:
                await session.mailbox_set.add_mailbox(folder)
    answer = IMAPServer(login, config)

    async def connected(reader: StreamReader, writer: StreamWriter) -> None:
        try:
            await answer(reader, writer, SocketInfo.get(writer, None))
        except ConnectionError:
            writer.close()  # the client went away in the middle of a line

    server = await asyncio.start_server(connected, host="127.0.0.1", port=0)
    print(f"PORT={server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.to_thread(sys.stdin.buffer.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1:]))
