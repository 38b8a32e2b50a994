// Queues by the golden vectors, and where only callers can see it: withdrawal, callbacks that call back, what is kept.
// Order and bounds under any sequence of events: `queues_model_test.cpp`.
#include "anyserve/queues.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "registry_vectors.hpp"

namespace anyserve {
namespace {

using vectors::Json;

using Happened = std::vector<std::pair<std::string, std::string>>;  // request, worker id or status

/// Plays the events of a vector as an agent would, with workers and clients that exist in the vector only.
class Play {
public:
    explicit Play(const Json& vector)
        : admission_(vector.value("queue_size", 1024U), vector.value("default_max_concurrency", 10U)) {
        for (const Json& each : vector.at("registrations")) register_model(each);
    }

    Happened play(const Json& event) {
        happened_.clear();
        if (event.contains("arrive")) {
            arrive(event);
        } else if (event.contains("reply")) {
            end(event.at("reply"), "OK");
        } else if (event.contains("not_taken")) {
            not_taken(event.at("not_taken"));
        } else if (event.contains("cancel")) {
            end(event.at("cancel"), "CANCELLED");
        } else if (event.contains("register")) {
            register_model(event.at("register"));
        } else if (event.contains("unregister_worker")) {
            changed(registry_.remove_worker(event.at("unregister_worker").get<std::string>()).at(0)->worker_id);
        } else if (event.contains("unregister_model")) {
            const Json& gone = event.at("unregister_model");
            const auto worker = gone.at("worker").get<std::string>();
            registry_.remove(worker, vectors::text_or_empty(gone, "model_name"),
                             vectors::text_or_empty(gone, "model_version"));
            changed(worker);
        } else if (event.contains("time")) {
            pass(event.at("time"));
        } else {
            EXPECT_EQ(event.at("drain"), true);
            draining_ = true;  // who waits goes on waiting
        }
        return happened_;
    }

    std::vector<std::string> waiting() const {
        std::vector<std::pair<std::size_t, std::string>> waiting;
        for (const auto& [name, request] : requests_) {
            if (!request->slot) waiting.emplace_back(request->arrival, name);
        }
        EXPECT_EQ(waiting.size(), admission_.waiting());
        std::sort(waiting.begin(), waiting.end());
        std::vector<std::string> names;
        for (const auto& each : waiting) names.push_back(each.second);
        return names;
    }

    void end_all() {
        while (!requests_.empty()) end(requests_.begin()->first, "CANCELLED");
    }

private:
    struct Request final : Ticket {
        Play* play = nullptr;
        std::string name;
        Target target;
        double deadline = 0;
        std::size_t arrival = 0;
        std::optional<Slot> slot;

        RoutePtr resolve() override { return play->registry_.resolve(target); }
        void granted(std::optional<Slot> given) noexcept override {
            given ? play->sent(*this, *std::move(given)) : play->told(name, "UNAVAILABLE");
        }
    };

    void arrive(const Json& event) {
        // As `kserve_service` does before it asks for a place.
        if (draining_) return told(event.at("arrive").get<std::string>(), "UNAVAILABLE");
        auto request = std::make_unique<Request>();
        request->play = this;
        request->name = event.at("arrive").get<std::string>();
        request->target = vectors::target(event);
        request->deadline = event.value("deadline", 1e9);
        request->arrival = ++arrivals_;
        Request& added = *(requests_[request->name] = std::move(request));
        submit(added, vectors::status_of_nothing(registry_, added.target));
    }

    void submit(Request& request, const std::string& status_of_nothing) {
        auto result = admission_.submit(request);
        if (auto* slot = std::get_if<Slot>(&result)) {
            sent(request, std::move(*slot));
        } else if (std::holds_alternative<QueueFull>(result)) {
            told(request.name, "RESOURCE_EXHAUSTED");
        } else if (std::holds_alternative<NothingLeft>(result)) {
            told(request.name, status_of_nothing);
        }
    }

    void not_taken(const std::string& name) {
        Request& request = *requests_.at(name);
        Slot slot = *std::exchange(request.slot, std::nullopt);
        request.exclude(slot.registration());
        admission_.release(std::move(slot));
        submit(request, "UNAVAILABLE");
    }

    void sent(Request& request, Slot slot) {
        happened_.emplace_back(request.name, slot.registration()->worker_id);
        request.slot = std::move(slot);
    }

    void told(std::string name, const std::string& status) {
        happened_.emplace_back(name, status);
        requests_.erase(name);
    }

    void end(const std::string& name, const std::string& status) {
        const auto request = std::move(requests_.at(name));
        told(request->name, status);
        admission_.withdraw(*request);
        if (request->slot) admission_.release(*std::exchange(request->slot, std::nullopt));
    }

    void pass(double now) {
        std::vector<std::string> late;
        for (const auto& [name, request] : requests_) {
            if (request->deadline <= now) late.push_back(name);
        }
        for (const auto& name : late) end(name, "DEADLINE_EXCEEDED");
    }

    void register_model(const Json& json) {
        const auto made = vectors::registration(json);
        EXPECT_TRUE(std::holds_alternative<RegistrationPtr>(registry_.add(made)));
        changed(made->worker_id);
    }

    void changed(const std::string& worker_id) {
        if (!registry_.has_worker(worker_id)) admission_.forget_worker(worker_id);
        admission_.reconsider();
    }

    Registry registry_{100, 100};
    Admission admission_;
    std::map<std::string, std::unique_ptr<Request>> requests_;
    std::size_t arrivals_ = 0;
    bool draining_ = false;
    Happened happened_;
};

bool is_worker(const std::pair<std::string, std::string>& one) { return one.second[0] >= 'a' && one.second[0] <= 'z'; }

TEST(Admission, QueuesVectors) {
    for (const Json& vector : vectors::load("queues.json")) {
        SCOPED_TRACE(vector.at("name"));
        Play play(vector);
        for (const Json& event : vector.at("events")) {
            SCOPED_TRACE(event.dump());
            Happened wanted = event.at("then").get<Happened>();
            Happened happened = play.play(event);
            Happened sent = happened;
            Happened wanted_sent = wanted;
            std::erase_if(sent, [](const auto& one) { return !is_worker(one); });
            std::erase_if(wanted_sent, [](const auto& one) { return !is_worker(one); });
            EXPECT_EQ(sent, wanted_sent);
            std::sort(happened.begin(), happened.end());
            std::sort(wanted.begin(), wanted.end());
            EXPECT_EQ(happened, wanted);
        }
        EXPECT_EQ(play.waiting(), vector.value("waiting", std::vector<std::string>()));
        play.end_all();
    }
}

/// A request that does what the test says when it is told.
struct Request final : Ticket {
    explicit Request(RoutePtr to) : route(std::move(to)) {}

    RoutePtr resolve() override { return route; }
    void granted(std::optional<Slot> given) noexcept override {
        ++told;
        slot = std::move(given);
        if (then) then();
    }

    RoutePtr route;
    std::optional<Slot> slot;
    int told = 0;
    std::function<void()> then;
};

RoutePtr route_to(const Json& registrations) {
    Route route;
    for (const Json& each : registrations) route.tiers.push_back({vectors::registration(each)});
    return std::make_shared<const Route>(std::move(route));
}

RoutePtr route_to_one() { return route_to({{{"worker", "a"}, {"model_name", "m"}, {"max_concurrency", 1}}}); }

/// The slot that is granted at once.
Slot at_once(Admission& admission, Ticket& ticket) { return std::get<Slot>(admission.submit(ticket)); }

bool waits(Admission& admission, Ticket& ticket) { return std::holds_alternative<Waits>(admission.submit(ticket)); }

TEST(Admission, TellsWhichQueueIsFull) {
    Admission admission(1, 10);
    const RoutePtr route = route_to_one();
    Request a(route), b(route), c(route);
    Slot slot = at_once(admission, a);
    EXPECT_TRUE(waits(admission, b));
    const auto refused = admission.submit(c);
    ASSERT_TRUE(std::holds_alternative<QueueFull>(refused));
    EXPECT_EQ(std::get<QueueFull>(refused).message, "1 requests are waiting already (--queue-size)");
    EXPECT_EQ(std::get<QueueFull>(refused).best, route->tiers[0][0]);
    const auto depths = admission.depths();
    ASSERT_EQ(depths.size(), 1U);
    EXPECT_EQ(depths[0].first, std::vector{route->tiers[0][0]->model_key()});
    EXPECT_EQ(depths[0].second, 1U);
    admission.withdraw(b);
    EXPECT_TRUE(admission.depths().empty());
    EXPECT_TRUE(waits(admission, c)) << "the room is free again";
    admission.release(std::move(slot));
    ASSERT_TRUE(c.slot);
    EXPECT_EQ(b.told, 0);
    EXPECT_EQ(admission.in_flight("a"), 1U);
    admission.release(*std::move(c.slot));
    EXPECT_EQ(admission.in_flight("a"), 0U);
}

TEST(Admission, DoesNotTellOneThatIsWithdrawnWhenItsTurnHasCome) {
    Admission admission(10, 10);
    const RoutePtr route = route_to({{{"worker", "a"}, {"model_name", "m"}, {"max_concurrency", 2}}});
    const RoutePtr none = std::make_shared<const Route>();
    Request a(route), b(route), first(route), second(route), third(route);
    Slot slots[] = {at_once(admission, a), at_once(admission, b)};
    for (Request* each : {&first, &second, &third}) EXPECT_TRUE(waits(admission, *each));
    first.route = none;
    first.then = [&] {  // all three are due: two places, and one that nothing is left for
        admission.withdraw(second);
        admission.withdraw(third);
    };
    second.route = third.route = route_to({{{"worker", "b"}, {"model_name", "m"}}});
    admission.reconsider();
    EXPECT_EQ(first.told, 1);
    EXPECT_FALSE(first.slot);
    EXPECT_EQ(second.told + third.told, 0);
    EXPECT_EQ(admission.in_flight("b"), 0U) << "their places were given back";
    for (Slot& slot : slots) admission.release(std::move(slot));
    EXPECT_EQ(admission.in_flight("a"), 0U);
}

TEST(Admission, HandsOnThePlaceOfOneThatIsWithdrawnWhenItsTurnHasCome) {
    Admission admission(10, 10);
    const RoutePtr route = route_to_one();
    const RoutePtr other = route_to({{{"worker", "b"}, {"model_name", "m"}, {"max_concurrency", 1}}});
    Request a(route), first(route), second(route), third(route);
    Slot slot = at_once(admission, a);
    for (Request* each : {&first, &second, &third}) EXPECT_TRUE(waits(admission, *each));
    first.route = std::make_shared<const Route>();
    second.route = third.route = other;
    first.then = [&] { admission.withdraw(second); };
    admission.reconsider();
    EXPECT_EQ(second.told, 0);
    ASSERT_TRUE(third.slot);
    EXPECT_EQ(admission.waiting(), 0U);
    admission.release(*std::move(third.slot));
    admission.release(std::move(slot));
}

TEST(Admission, TellsOneAfterTheOtherHoweverTheyCallBack) {
    Admission admission(10'000, 10);
    const RoutePtr route = route_to_one();
    Request running(route);
    Slot slot = at_once(admission, running);
    std::vector<std::unique_ptr<Request>> requests;
    std::vector<std::size_t> order;
    std::size_t inside = 0;
    for (std::size_t i = 0; i < 10'000; ++i) {
        Request& request = *requests.emplace_back(std::make_unique<Request>(route));
        request.then = [&, i] {
            EXPECT_EQ(inside++, 0U) << "deep calls would take the stack of 10,000";
            order.push_back(i);
            admission.release(*std::exchange(requests[i]->slot, std::nullopt));  // its exchange fails at once
            --inside;
            requests[i].reset();
        };
        ASSERT_TRUE(waits(admission, request));
    }
    admission.release(std::move(slot));
    ASSERT_EQ(order.size(), 10'000U);
    EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
    EXPECT_EQ(admission.in_flight("a"), 0U);
}

TEST(Admission, KeepsABoundedNumberOfLanes) {
    Admission admission(10, 10);
    std::weak_ptr<const Registration> first;
    for (std::size_t i = 0; i <= Admission::kMaxIdleLanes; ++i) {
        Request request(route_to({{{"worker", "w" + std::to_string(i)}, {"model_name", "m"}}}));
        if (i == 0) first = request.route->tiers[0][0];
        admission.release(at_once(admission, request));
        EXPECT_EQ(first.expired(), i == Admission::kMaxIdleLanes);
    }
}

TEST(Admission, CountsWhatAWorkerStillRunsWhenItComesBack) {
    Admission admission(10, 1);
    const RoutePtr route = route_to({{{"worker", "a"}, {"model_name", "m"}}});
    Request a(route), b(route);
    Slot slot = at_once(admission, a);
    admission.forget_worker("a");
    admission.reconsider();
    EXPECT_EQ(admission.in_flight("a"), 1U);
    admission.reconsider();
    EXPECT_TRUE(waits(admission, b)) << "it is back, and its one place is taken";
    admission.release(std::move(slot));
    ASSERT_TRUE(b.slot);
    admission.forget_worker("a");
    admission.release(*std::move(b.slot));
    admission.reconsider();
    EXPECT_EQ(admission.in_flight("a"), 0U);
}

}  // namespace
}  // namespace anyserve
