// One request's way to a worker and back: route, wait for a place, exchange, retry, fill in the reply.
//
// Between `kserve_service`, which speaks gRPC, and `queues` and `worker_client`, which know nothing of requests. Rules:
// spec `serving.infer.*`, `frame.retry.*`, `stream.*`. Mirrors reference/anyserve/agent/dispatcher.py.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <variant>

#include "anyserve/code.hpp"
#include "anyserve/event_loop.hpp"
#include "anyserve/no_match.hpp"
#include "anyserve/queues.hpp"
#include "anyserve/registry.hpp"
#include "anyserve/request.hpp"
#include "anyserve/shared_state.hpp"
#include "anyserve/worker_client.hpp"
#include "anyserve/worker_clients.hpp"

namespace anyserve {

class Dispatcher;

/// Who gets what comes of an inference. Called from the loop, never from inside `Dispatcher::unary` or `stream` of that
/// inference, but maybe from inside those of another or its end. No function may destroy an inference, but for the last
/// two the one that they are about.
class Outcome {
public:
    /// `unary`: the one ModelInferResponse. `stream`: the next ModelStreamInferResponse; false: no more of them before
    /// `Inference::resume`.
    virtual bool on_reply(Payload reply) = 0;
    /// All replies have come. Follows upon the last of them at once, also where that asked for no more.
    virtual void on_done() = 0;
    /// The request failed; replies of a stream may have come before.
    virtual void on_error(InferenceError error) = 0;

protected:
    ~Outcome() = default;
};

/// A request and its way. A part of whatever serves the call, so that all of it takes one allocation.
///
/// A deadline is the call's, which cancels what it has begun. Here it only keeps a request that comes too late from
/// being sent (`queue.deadline.passed`).
class Inference final : private Ticket, private ReplySink {
public:
    Inference(Dispatcher& dispatcher, Outcome& outcome) noexcept : dispatcher_(dispatcher), outcome_(outcome) {}
    ~Inference() { cancel(); }
    Inference(const Inference&) = delete;
    Inference& operator=(const Inference&) = delete;

    /// To be filled before the start, and left alone from then on.
    Request request;

    /// The client can take the next reply of a stream.
    void resume();
    /// Ends its waiting for a place, if it does: it will not be sent any more. The outcome is not told.
    void withdraw();
    /// Ends what is left of it: its worker is told to stop (`frame.cancel.*`). The outcome is not told.
    void cancel();

private:
    friend class Dispatcher;

    /// A ticket's turn has come: with a place, or with nothing left to wait for.
    struct Turn {
        std::optional<Slot> slot;
    };

    // Ticket, under the lock and on any thread.
    [[nodiscard]] RoutePtr resolve() override;
    void granted(std::optional<Slot> slot) noexcept override;
    // ReplySink.
    void on_frame(Payload frame) override;
    void on_failed(Failure failure) override;

    [[nodiscard]] std::optional<InferenceError> start(bool stream);
    [[nodiscard]] std::optional<InferenceError> acquire();
    void take_turn(Turn turn);
    [[nodiscard]] bool begin(Slot slot);
    [[nodiscard]] RequestParts parts(const Registration& registration);
    void try_elsewhere(const Failure& failure);
    void on_only_reply(Payload frame);
    void on_stream_reply(std::string frame);
    void on_stream_end();
    [[nodiscard]] bool finish_exchange();
    void release(bool succeeded);
    void fail(Code code, std::string message);
    [[nodiscard]] bool too_late() const noexcept;
    [[nodiscard]] InferenceError late_error() const;
    [[nodiscard]] InferenceError unreachable_error() const;

    Dispatcher& dispatcher_;
    Outcome& outcome_;
    std::optional<Turn> turn_;  // while it is among the dispatcher's turns; under the lock
    std::optional<Slot> slot_;  // while an exchange is under way
    WorkerEndpointPtr endpoint_;
    std::string annotations_;  // behind the request's payload in the frame
    std::unique_ptr<Exchange> exchange_;
    EventLoop::Clock::time_point arrived_{};
    EventLoop::Clock::time_point started_{};
    bool waits_ = false;         // for its turn
    bool stream_ = false;        // the client takes any number of replies
    bool asks_final_ = false;    // and a mark on the last
    bool marked_final_ = false;  // which the worker has set
    bool failed_ = false;        // one of the replies was an error
    bool tried_ = false;         // a match, in vain
};

/// Carries the requests of one thread to workers. On the loop's thread.
class Dispatcher {
public:
    Dispatcher(EventLoop& loop, SharedState& state, WorkerClients& clients);

    /// One exchange with one reply. An error that is known at once (nobody serves it, the queue is full) is returned,
    /// and the outcome hears nothing: the fast path needs no turn of the loop.
    [[nodiscard]] std::optional<InferenceError> unary(Inference& inference) { return inference.start(false); }
    /// One exchange with any number of replies.
    [[nodiscard]] std::optional<InferenceError> stream(Inference& inference) { return inference.start(true); }

private:
    friend class Inference;

    void give_back(Slot slot);
    void take_turns();

    EventLoop& loop_;
    SharedState& state_;
    WorkerClients& clients_;
    NoMatch no_match_;
    std::deque<Inference*> turns_;  // whose turn has come, told by whichever thread made room; under the lock
    bool taking_turns_ = false;
};

}  // namespace anyserve
