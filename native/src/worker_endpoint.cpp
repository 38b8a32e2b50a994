#include "anyserve/worker_endpoint.hpp"

#include <algorithm>

#include "anyserve/worker_client.hpp"

namespace anyserve {

std::size_t ConnectionShare::join(EventLoop& loop, std::weak_ptr<WorkerClient> client) {
    const std::lock_guard lock(mutex_);
    members_.push_back({&loop, std::move(client)});
    return members_.size() - 1;
}

void ConnectionShare::add_idle(std::size_t member) {
    const std::lock_guard lock(mutex_);
    ++members_[member].idle;
}

void ConnectionShare::drop_idle(std::size_t member) {
    const std::lock_guard lock(mutex_);
    if (members_[member].idle > 0) --members_[member].idle;
}

std::optional<std::size_t> ConnectionShare::take_idle(std::size_t member) {
    const std::lock_guard lock(mutex_);
    std::size_t from = member;
    if (members_[member].idle == 0) {
        const auto spare = std::ranges::find_if(members_, [](const Member& each) { return each.idle > 0; });
        if (spare == members_.end()) return std::nullopt;
        from = static_cast<std::size_t>(spare - members_.begin());
    }
    --members_[from].idle;
    return from;
}

void ConnectionShare::fetch(std::size_t from, std::size_t to) {
    const std::lock_guard lock(mutex_);
    const Member& taker = members_[to];
    // Each of the two is touched on its own loop alone.
    HandOver hand_over = [loop = taker.loop, taker = taker.client](Fd socket) {
        loop->post([taker, socket = std::make_shared<Fd>(std::move(socket))] {
            if (const auto client = taker.lock()) client->taken_over(std::move(*socket));
        });
    };
    members_[from].loop->post([giver = members_[from].client, hand_over = std::move(hand_over)] {
        if (const auto client = giver.lock()) return client->give_up_idle(hand_over);
        hand_over(Fd());
    });
}

}  // namespace anyserve
