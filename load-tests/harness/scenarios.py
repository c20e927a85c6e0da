"""What is measured."""

IDENTITY = "x-identity: spiffe://bench.test/ns/prod/sa/svc-050"
STATIC = ["authorization: Bearer static-long-lived-0123456789abcdef", "x-api-key: sk-0123456789abcdef"]
JOB = dict(host="api-050.test", path="/v1/obj-050/b128?api_key=SECRET&q=1", headers=[IDENTITY, *STATIC])

# config: which configuration of the peer; upstream: which port it gets; tool: lg (HTTP/1.1), h2load or lgs (streams, and requests over HTTP/2
# inside a tunnel); only: peers of these kinds; reloads: how often a second the peer's policies are replaced meanwhile; paced: False where
# the client has no fixed rate
SCENARIOS = {
    "S1": dict(config="plain", path="/b128", what="plain HTTP/1.1, keep-alive, 128 B"),
    "S2a": dict(config="job", what="the job: strip 3 credentials, 100 rules, inject; no record", **JOB),
    "S2b": dict(config="jobrec", what="the job + one record per request", **JOB),
    "S3h1": dict(config="tls1", upstream="UPTLS", path="/b128", what="TLS upstream over HTTP/1.1"),
    "S3h2": dict(config="tls2", upstream="UPTLS", path="/b128", what="TLS upstream over HTTP/2"),
    "S4": dict(config="h2", tool="h2load", path="/b128", what="h2c downstream, 100 streams, HTTP/1.1 upstream"),
    "S4g": dict(config="grpc", upstream="UPH2C", tool="h2load", path="/grpc", grpc=True,
                what="h2c to h2c, POST 64 B, gRPC headers, 100 streams"),
    "S4s": dict(config="grpc", upstream="UPECHO", tool="lgs", path="/bench.Echo/Stream", messages=1000, paced=False,
                what="gRPC streaming, h2c to h2c: 100 streams, 1,000 messages of 100 B there and back on each; all figures per message"),
    "S5": dict(config="mitm", upstream="UPTLS", path="/b128", mitm=True, what="CONNECT + TLS interception, kept alive"),
    "S5c": dict(config="mitm", upstream="UPTLS", path="/b128", mitm=True, close=True, conns=8,
                what="CONNECT + TLS interception, new tunnel per request"),
    "S5h2": dict(config="mitm2", upstream="UPTLS", tool="lgs", path="/h2", mitm=True,
                 what="CONNECT + TLS interception, HTTP/2 in the tunnel and to the upstream: 4 tunnels x 100 streams"),
    "S6": dict(config="plain", path="/b128", close=True, what="new downstream connection per request"),
    "S7k": dict(config="plain", path="/b16k", what="16 KiB responses"),
    "S7m": dict(config="plain", path="/b1m", conns=8, what="1 MiB responses"),
    "S7u": dict(config="plain", path="/b128", conns=8, body=1 << 20, what="1 MiB request bodies"),
    "S8": dict(config="plain", special=True, path="/b128", what="memory, start-up, binary size"),
    "S9": dict(config="job", reloads=10, only=["exeat"], what="the job while its 100 rules are replaced ten times a second", **JOB),
}
