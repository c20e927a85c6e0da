"""A gRPC client that sends a static key in its metadata: one call, and one conversation."""
import sys
import grpc

plain = lambda message: message
credentials = grpc.ssl_channel_credentials()
metadata = (("authorization", "Bearer static-canary-bearer"), ("x-api-key", "static-canary-key"))
with grpc.secure_channel(sys.argv[1], credentials) as channel:
    say = channel.unary_unary("/it.Echo/Say", request_serializer=plain, response_deserializer=plain)
    answer, call = say.with_call(b"hello", metadata=metadata, timeout=20)
    assert answer == b"hello", answer
    assert call.code() == grpc.StatusCode.OK, call
    chat = channel.stream_stream("/it.Echo/Chat", request_serializer=plain, response_deserializer=plain)
    words = [b"one", b"two", b"three"]
    assert list(chat(iter(words), metadata=metadata, timeout=20)) == words
    denied = channel.unary_unary("/it.Shut/Say", request_serializer=plain, response_deserializer=plain)
    try:
        denied(b"hello", metadata=metadata, timeout=20)
    except grpc.RpcError as error:
        print(error.code().name)
