"""The honesty gate: a peer that does not do the job is left out, not measured."""
import base64
import json
import re

from .machine import get, get_inside
from .scenarios import IDENTITY, STATIC

SUBJECT = IDENTITY.split(": ")[1]


def check(peer, config):
    """What the peer, started for `config`, does wrong. It may be started anew for that."""
    if config.startswith("job"):
        return job(peer)
    wrong = []
    if peer.info.get("identity") == "listener":
        for what, port in (("a wrong identity", peer.wrong_port), ("no identity", peer.none_port)):
            status = ask(peer, config, port)
            if status not in (401, 403):
                wrong.append(f"{what}: answered {status}, not 401 or 403")
    if config in ("tls1", "tls2", "mitm", "mitm2"):
        upstream = peer.upstream_name
        peer.stop()
        peer.start(config, "UPBAD", answers=False)
        status = ask(peer, config, peer.port)
        if status == 200:
            wrong.append("it takes an upstream whose certificate nobody vouches for")
        peer.stop()
        peer.start(config, upstream)
        if (status := ask(peer, config, peer.port)) != 200:
            wrong.append(f"answered {status}")
    return wrong


def ask(peer, config, port):
    """The status of one plain request through the peer; 0 where it only hangs up."""
    try:
        if config.startswith("mitm"):
            return get_inside(port, peer.host(f"127.0.0.1:{peer.upstream}"), "/b128")
        return get(port, "/b128", peer.host("up.test"))[0]
    except (OSError, ValueError):
        return 0


def job(peer):
    """What the peer does wrong: the upstream must see exactly the injected credential and none of the three static ones, and a wrong
    path, a wrong identity and no identity must be refused."""
    host = peer.host("api-050.test")
    status, body = get(peer.port, "/v1/obj-050/echo?api_key=SECRET&q=1", host, [IDENTITY, *STATIC])
    wrong = []
    if status != 200 or not CREDENTIALS[peer.info.get("credential", "fixed")](body):
        wrong.append(f"answered {status}, the upstream saw {body[:200]!r}")
    if peer.info.get("identity") == "listener":
        # the identity is the listener's: the header counts for nothing, so the other ports send the right one
        tries = [("a wrong path", peer.port, "/v1/obj-051/echo", IDENTITY), ("a wrong identity", peer.wrong_port, "/v1/obj-050/echo", IDENTITY),
                 ("no identity", peer.none_port, "/v1/obj-050/echo", IDENTITY)]
    else:
        tries = [("a wrong path", peer.port, "/v1/obj-051/echo", IDENTITY),
                 ("a wrong identity", peer.port, "/v1/obj-050/echo", IDENTITY.replace("050", "051")),
                 ("no identity", peer.port, "/v1/obj-050/echo", None)]
    for what, port, path, identity in tries:
        status, _ = get(port, path, host, [*filter(None, [identity]), *STATIC])
        if status not in (401, 403):
            wrong.append(f"{what}: answered {status}, not 401 or 403")
    return wrong


def fixed(body):
    return body == "auth=Bearer INJECTED key= args=q=1"


def jwt(body):
    """A signed token minted for this identity, and nothing else."""
    found = re.fullmatch(r"auth=Bearer ([\w-]+)\.([\w-]+)\.([\w-]+) key= args=q=1", body)
    if not found:
        return False
    head, claims = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in found.groups()[:2])
    return head.get("alg") in ("ES256", "RS256") and claims.get("sub") == SUBJECT and claims["exp"] - claims["iat"] <= 900


CREDENTIALS = {"fixed": fixed, "jwt": jwt}
