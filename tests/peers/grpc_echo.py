"""A gRPC service that answers in upper case, and a client of it. Bytes are the messages, so nothing is generated.

    grpc_echo.py serve                       prints its port, serves until it is ended
    grpc_echo.py call HOST:PORT CA_FILE      prints what came back: messages, trailing metadata, status
"""

import sys
from concurrent import futures

import grpc

METHOD = "/shop.Catalog/List"


def upper(request, context):
    context.set_trailing_metadata((("x-count", str(len(request))),))
    for word in request.split():
        yield word.upper()


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "no such product")


class Handler(grpc.GenericRpcHandler):
    def service(self, call):
        behaviour = {METHOD: upper, "/shop.Catalog/Get": fail}.get(call.method)
        return behaviour and grpc.unary_stream_rpc_method_handler(behaviour)


def serve():
    server = grpc.server(futures.ThreadPoolExecutor(4), handlers=[Handler()])
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    server.start()
    server.wait_for_termination()


def call(target, ca_file):
    with open(ca_file, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    with grpc.secure_channel(target, credentials) as channel:
        stream = channel.unary_stream(METHOD)(b"red green blue", timeout=20)
        print([word.decode() for word in stream], dict(stream.trailing_metadata()).get("x-count"), stream.code().name)
        try:
            list(channel.unary_stream("/shop.Catalog/Get")(b"", timeout=20))
        except grpc.RpcError as error:
            print(error.code().name, error.details())


serve() if sys.argv[1] == "serve" else call(sys.argv[2], sys.argv[3])
