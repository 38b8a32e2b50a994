// conformance/vectors/errors.json, kind `exchange`: what the agent sees on its connections, whether the request is sent
// again, and how it ends. The dispatcher here is the least one that these vectors need.
#include <gtest/gtest.h>
#include <sys/syscall.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "anyserve/worker_client.hpp"
#include "vectors.hpp"
#include "worker_client_peer.hpp"

namespace anyserve {
namespace {

using json = vectors::Json;
using testing::ListeningWorker;
using testing::Peer;
using testing::Recorder;
using testing::Script;

/// One worker of a vector, and what it does at each connection.
class VectorWorker {
public:
    VectorWorker(std::string path, std::vector<json> attempts)
        : path_(std::move(path)), attempts_(std::move(attempts)) {
        const std::string connect = attempts_.back().value("connect", "");
        if (connect != "missing") listen(connect == "backlog-full" ? 0 : 64, connect == "other-user");
        if (connect == "backlog-full") blocks_ = dial();
        if (attempts_.front().contains("connect")) {
            if (connect == "refused") listener_->close();
            return;
        }
        script_ = std::make_unique<Script>([this] { play(); });
    }

    [[nodiscard]] const std::string& path() const { return path_; }
    [[nodiscard]] bool begins_kept() const { return attempts_.front().value("kept", false); }

private:
    void listen(int backlog, bool stranger) {
        constexpr long kStranger = 65534;  // of this thread alone, hence no call of libc
        if (stranger) syscall(SYS_setresuid, -1, kStranger, -1);
        listener_ = std::make_unique<ListeningWorker>(path_, backlog);
        if (stranger) syscall(SYS_setresuid, -1, 0, -1);
    }
    Fd dial() const {
        Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, path_.data(), path_.size());
        EXPECT_EQ(connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
        return socket;
    }
    void play() {
        for (const json& attempt : attempts_) {
            if (attempt.contains("connect")) return;  // the listener has been closed
            Peer peer = listener_->accept();
            if (attempt.value("kept", false)) {
                EXPECT_EQ(peer.frame(), "before");
                peer.reply("");
            }
            const bool last = &attempt == &attempts_.back();
            if (!last && attempts_.back().contains("connect")) listener_->close();
            act(peer, attempt);
        }
    }
    static void act(Peer& peer, const json& attempt) {
        const bool all = attempt.at("written") == "all";
        const json& sees = attempt.at("sees");
        if (all && sees.back() == "reset") {
            peer.wait_for_bytes();  // the request, which is left unread
        } else if (all) {
            if (!peer.frame()) return;  // a connection that was only made to end this script
        } else {
            EXPECT_TRUE(peer.bytes(100));
        }
        for (const json& sight : sees) {
            if (sight.is_object()) {
                peer.send(vectors::bytes_of(sight.at("bytes")));
            } else if (sight == "broken-pipe") {
                peer.refuse_bytes();
            } else if (sight == "end" && !all) {
                peer.half_close();
            } else {
                peer.close();  // with bytes unread that is a reset
            }
        }
        if (peer.fd() < 0) return;
        // An agent that is still writing must not get to its end meanwhile; EPIPE shows when there is room again.
        if (!all && sees.back() != "broken-pipe") peer.wait_for_hang_up();
        peer.drain();
    }

    std::string path_;
    std::vector<json> attempts_;
    std::unique_ptr<ListeningWorker> listener_;
    Fd blocks_;
    std::unique_ptr<Script> script_;  // first to go: it is waited for
};

struct Outcome {
    std::string status = "UNAVAILABLE";  // when no match is left
    std::vector<std::string> tried;
};

/// Sends a request to one worker after the other, as `frame.retry.*` has it.
Outcome dispatch(testing::Driver& driver, const std::map<std::string, std::shared_ptr<WorkerClient>>& clients,
                 const std::vector<std::string>& order, const std::string& payload) {
    Outcome outcome;
    for (const std::string& name : order) {
        outcome.tried.push_back(name);
        Recorder recorder(driver.loop);
        std::optional<Failure> violation;
        std::unique_ptr<Exchange> exchange;
        recorder.act = [&] { violation = exchange->finish(); };
        exchange = clients.at(name)->start({payload}, recorder);
        EXPECT_TRUE(driver.until([&] { return !recorder.frames.empty() || recorder.failure; }));
        const std::optional<Failure> failure = recorder.failure ? recorder.failure : violation;
        if (!failure) {
            outcome.status = "OK";
            return outcome;
        }
        switch (failure->kind) {
            case FailureKind::gone: return outcome;
            case FailureKind::violation: outcome.status = "INTERNAL"; return outcome;
            case FailureKind::unreachable:
            case FailureKind::not_taken: break;
        }
    }
    return outcome;
}

void run(const json& vector) {
    testing::Driver driver;
    const testing::TemporaryDirectory directory;
    std::filesystem::permissions(directory / "", std::filesystem::perms::all);  // for the worker of another user
    std::vector<std::string> order;
    std::map<std::string, std::vector<json>> attempts;
    bool part = false;
    for (const json& attempt : vector.at("attempts")) {
        const std::string name = attempt.at("worker");
        if (!attempts.contains(name)) order.push_back(name);
        attempts[name].push_back(attempt);
        part = part || attempt.value("written", "") == "part";
    }
    std::map<std::string, std::unique_ptr<VectorWorker>> workers;
    std::map<std::string, std::shared_ptr<WorkerClient>> clients;
    for (const std::string& name : order) {
        workers[name] = std::make_unique<VectorWorker>(directory / name, attempts[name]);
        clients[name] = WorkerClient::create(driver.loop, driver.sends, directory / name,
                                             {.connect_timeout = std::chrono::milliseconds(20)}, {});
        if (!workers[name]->begins_kept()) continue;
        EXPECT_EQ(dispatch(driver, clients, {name}, "before").status, "OK");
    }
    // A frame that is wholly written at once, or one that cannot be.
    Outcome outcome = dispatch(driver, clients, order, part ? std::string(std::size_t{4} << 20, 'p') : "request");
    const std::string status = vector.at("status");
    if (vector.at("name") == "failure-is-not-tried-elsewhere") {
        EXPECT_EQ(outcome.status, "OK") << "a reply; that it tells a failure is not this room's business";
    } else {
        EXPECT_EQ(outcome.status, status);
    }
    std::vector<std::string> tried = vector.at("tried");
    tried.erase(std::unique(tried.begin(), tried.end()), tried.end());  // a kept connection's second try is inside
    EXPECT_EQ(outcome.tried, tried);
    for (const auto& [name, client] : clients) client->close();
    // Scripts of connections that must not come wait for one: it is given to them.
    for (const std::string& name : order) {
        for (std::size_t count = 0; count < attempts[name].size(); ++count) {
            const Fd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
            sockaddr_un address{};
            address.sun_family = AF_UNIX;
            std::memcpy(address.sun_path, workers[name]->path().data(), workers[name]->path().size());
            if (connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) break;
        }
    }
    driver.turn();
}

TEST(ErrorVectors, Exchanges) {
    std::size_t count = 0;
    for (const json& vector : vectors::load("errors.json")) {
        if (vector.at("kind") != "exchange") continue;
        const std::string name = vector.at("name");
        if (name == "other-user" && getuid() != 0) continue;
        SCOPED_TRACE(name);
        run(vector);
        ++count;
    }
    EXPECT_GE(count, 30U);
}

}  // namespace
}  // namespace anyserve
