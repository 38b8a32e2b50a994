// The same echo on gRPC C++ at its leanest: the generic callback service, which hands messages through as raw bytes.
// It does not forward. Prints its port.
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>

#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>

namespace {

/// One call, whatever its method: its first message comes back.
class Echo final : public grpc::ServerGenericBidiReactor {
public:
    Echo() { StartRead(&message_); }

private:
    void OnReadDone(bool ok) override {
        if (!ok) return Finish({grpc::StatusCode::INTERNAL, "no message"});
        StartWriteAndFinish(&message_, grpc::WriteOptions(), grpc::Status::OK);
    }
    void OnDone() override { const std::unique_ptr<Echo> own(this); }  // gRPC's way: a reactor ends itself

    grpc::ByteBuffer message_;
};

class Service final : public grpc::CallbackGenericService {
    grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext*) override {
        return std::make_unique<Echo>().release();
    }
};

}  // namespace

int main() {
    Service service;
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.SetMaxReceiveMessageSize(std::numeric_limits<int>::max());
    builder.RegisterCallbackGenericService(&service);
    const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
    if (!server) return EXIT_FAILURE;
    std::printf("%d\n", port);
    std::fflush(stdout);
    server->Wait();
    return EXIT_SUCCESS;
}
