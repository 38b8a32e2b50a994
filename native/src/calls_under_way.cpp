#include "anyserve/calls_under_way.hpp"

#include <utility>
#include <vector>

namespace anyserve {

CallsUnderWay::Call::~Call() {
    if (listens_) all_.listening_.erase(this);
    if (--all_.count_ == 0) all_.end();
}

void CallsUnderWay::Call::listen() { listens_ = all_.listening_.insert(this).second || listens_; }

void CallsUnderWay::begin_drain() {
    if (std::exchange(draining_, true)) return;
    const std::vector<Call*> told(listening_.begin(), listening_.end());
    for (Call* call : told) call->on_drain();
}

void CallsUnderWay::when_ended(std::chrono::milliseconds grace, std::function<void()> ended) {
    ended_ = std::move(ended);
    grace_ = loop_.at(loop_.now() + grace, [this] { tell(); });
    if (count_ == 0) end();
}

void CallsUnderWay::end() {
    if (!ended_) return;
    // One of the instance's own workers may begin a call in the meantime: then it is not the end.
    soon_ = loop_.at(loop_.now(), [this] {
        if (count_ == 0) tell();
    });
}

void CallsUnderWay::tell() {
    grace_ = {};
    soon_ = {};
    if (ended_) std::exchange(ended_, nullptr)();
}

}  // namespace anyserve
