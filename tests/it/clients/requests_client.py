"""Uses requests as any program does: proxy and trust come from the environment."""
import sys
import requests

session = requests.Session()
for method in ("GET", "POST"):
    answer = session.request(
        method,
        sys.argv[1] + "?api_key=static-canary-query",
        headers={"Authorization": "Bearer static-canary-bearer", "X-Api-Key": "static-canary-key"},
        cookies={"session": "static-canary-cookie"},
        json={"hello": "there"} if method == "POST" else None,
    )
    answer.raise_for_status()
    print(answer.json()["method"])
