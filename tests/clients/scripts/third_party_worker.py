"""A worker that somebody wrote without anyserve: blocking sockets, fields 1 to 4 of a registration, no heartbeats.

Usage: third_party_worker.py MANAGEMENT SOCKET WORKER_ID MODE, with the generated modules on PYTHONPATH.
It serves one connection at a time. MODE is `close`: it closes after each reply, or `keep`: when the agent does.
Answers with the payload that it got, as the raw tensor `request`, and with its WORKER_ID.
"""

import socket
import struct
import sys

import grpc
import grpc_predict_v2_pb2 as pb
import minimal_management_pb2 as management
import minimal_management_pb2_grpc as management_grpc

management_address, path, worker_id, mode = sys.argv[1:]


def exactly(connection, size):
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise EOFError
        data += part
    return data


def answer(payload):
    request = pb.ModelInferRequest.FromString(payload)
    if request.model_version == "crash":
        sys.exit(1)
    response = pb.ModelInferResponse(raw_output_contents=[payload])
    response.outputs.add(name="request", datatype="UINT8", shape=[len(payload)])
    response.parameters["worker"].string_param = worker_id
    return response.SerializeToString()


listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
listening.bind(path)
listening.listen(64)
with grpc.insecure_channel(management_address) as channel:
    stub = management_grpc.WorkerManagementStub(channel)
    for version in ("", "crash"):
        reply = stub.RegisterModel(
            management.RegisterModelRequest(
                model_name="theirs", model_version=version, worker_address=f"unix://{path}", worker_id=worker_id
            )
        )
        assert reply.success, reply.message
print("registered", flush=True)
while True:
    connection, _ = listening.accept()
    with connection:
        try:
            while True:
                payload = exactly(connection, struct.unpack(">I", exactly(connection, 4))[0])
                reply = answer(payload)
                connection.sendall(struct.pack(">I", len(reply)) + reply)
                if mode == "close":
                    break
        except (EOFError, ConnectionError):
            pass
