// The pure parts of the native agent, run one again and again between two marks. `parts.py` has those of the reference.
//
// Usage: parts PART; prints how often it ran; without PART, the names of all. A mark is a call of getppid(2): callgrind
// dumps its counts there (`instructions.py`), and otherwise it does nothing.
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <memory>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "anyserve/framing.hpp"
#include "anyserve/grpc_message.hpp"
#include "anyserve/queues.hpp"
#include "anyserve/registry.hpp"
#include "anyserve/reply_filling.hpp"
#include "anyserve/request.hpp"
#include "anyserve/scan.hpp"

namespace {

using namespace anyserve;

using Run = std::function<void()>;

constexpr int kWarmUps = 20;  // allocators and tables have then what they need
constexpr int kRepeats = 500;
constexpr std::size_t kLimit = std::size_t{1} << 20;
constexpr int kRegistrations = 100;

/// What a part found is looked at, so that the compiler keeps it and a part that does nothing is noticed.
void require(bool holds) {
    if (!holds) std::abort();
}

/// Hands over `bytes` as a socket would, some at a time.
void in_pieces(std::string_view bytes, std::size_t size, const std::function<void(std::string_view)>& take) {
    for (; !bytes.empty(); bytes.remove_prefix(std::min(size, bytes.size()))) take(bytes.substr(0, size));
}

std::string request_bytes() {
    std::string bytes;
    append_bytes_field(bytes, 1, "echo");
    append_bytes_field(bytes, 3, "request-1");
    append_parameter(bytes, "priority", std::uint64_t{1});
    append_parameter(bytes, "triton_enable_empty_final_response", true);
    append_parameter(bytes, "session", std::string_view("a session's name"));
    append_bytes_field(bytes, 5, "\n\1x\22\4FP32\32\1\20");
    append_bytes_field(bytes, 7, std::string(64, '\0'));
    return bytes;
}

std::string reply_bytes() {
    std::string bytes;
    append_bytes_field(bytes, 5, "\n\1x\22\4FP32\32\1\20");
    append_bytes_field(bytes, 6, std::string(64, '\0'));
    return bytes;
}

RegistrationPtr registration(int number, std::uint32_t max_concurrency = 0) {
    const std::string text = std::to_string(number);
    Registration made;
    made.worker_id = "w" + std::to_string(number % 10);
    made.socket_path = "/run/" + made.worker_id;
    made.model_name = "m" + text;
    made.capability = std::get<Capability>(Capability::make(
        {{"type", number % 2 == 0 ? "chat" : "embed"}, {"model", "m" + text}, {"size", text}, {"region", "eu-west"}}));
    made.max_concurrency = max_concurrency;
    return std::make_shared<const Registration>(std::move(made));
}

std::shared_ptr<Registry> filled_registry() {
    auto registry = std::make_shared<Registry>(kRegistrations, kRegistrations);
    for (int number = 0; number < kRegistrations; ++number) {
        require(std::holds_alternative<RegistrationPtr>(registry->add(registration(number))));
    }
    return registry;
}

Query query(std::vector<Query::Pair> pairs) { return std::get<Query>(Query::parse(pairs)); }

Target named(std::string_view name) { return {std::string(name), {}, {}, false}; }

Target asking(std::vector<Query::Pair> pairs) { return {{}, {}, query(std::move(pairs)), false}; }

Run framing() {
    std::string bytes;
    for (const std::uint32_t size : {100, 100, 100, 100, 100, 100, 100, 0, 20'000, 100}) {
        const auto header = frame_header(size);
        bytes.append(header.data(), header.size()).append(size, 'x');
    }
    return [bytes] {
        FrameReader reader(kLimit);
        std::vector<std::string> frames;
        in_pieces(bytes, 900, [&](std::string_view piece) { require(reader.take(piece, frames)); });
        require(frames.size() == 10);
    };
}

Run scan() {
    return [bytes = request_bytes()] {
        MessageHead head;
        require(!scan_message(bytes, kRequestFields, head) && head.parameters.size() == 3);
    };
}

Run scan_stream() {
    std::string bytes;
    append_bytes_field(bytes, 2, request_bytes());
    return [bytes] {
        StreamReply reply;
        require(!scan_stream_reply(bytes, reply) && reply.parts.size() == 1);
    };
}

Run match() {
    const std::array queries{query({{"type", "chat"}, {"model", "m4"}}), query({{"type", "c*t"}, {"size", ">=3"}}),
                             query({{"type", "chat|embed"}, {"region", "!=us"}}), query({{"region", "*-w?st"}})};
    std::vector<Capability> capabilities;
    for (int number = 0; number < 8; ++number) capabilities.push_back(registration(number)->capability);
    return [queries, capabilities] {
        int matches = 0;
        for (const Query& each : queries) {
            for (const Capability& capability : capabilities) matches += each.exact_matches(capability).has_value();
        }
        require(matches == 1 + 2 + 8 + 8);
    };
}

Run parse_query() {
    return [] { require(query({{"type", "chat%20m|embed"}, {"model", "m*"}, {"size", ">=3"}}).items().size() == 3); };
}

Run registry_kept() {
    return [registry = filled_registry(), by_name = named("m42"),
            by_query = asking({{"type", "chat"}, {"model", "m42"}})] {
        require(registry->resolve(by_name)->tiers.size() == 1 && registry->resolve(by_query)->tiers.size() == 1);
    };
}

Run registry_by_name() {
    return [registry = filled_registry()] {
        require(registry->named("m42").size() == 1 && registry->named("nothing").empty());
    };
}

/// A change of the registry, after which a query is answered anew.
Run after_change(Target target, std::size_t tiers) {
    return [registry = filled_registry(), again = registration(7), target, tiers] {
        require(std::holds_alternative<RegistrationPtr>(registry->add(again)));
        require(registry->resolve(target)->tiers.size() == tiers);
    };
}

Run registry_by_query() { return after_change(asking({{"type", "chat"}, {"model", "m42"}}), 1); }

Run ranking() { return after_change(asking({{"type", "chat|e*"}, {"size", ">=20"}}), 2); }

class Caller final : public Ticket {
public:
    Caller(Registry& registry, const Target& target) : registry_(registry), target_(target) {}

    RoutePtr resolve() override { return registry_.resolve(target_); }
    void granted(std::optional<Slot> slot) noexcept override { slot_ = std::move(slot); }

    void submit_to(Admission& admission) {
        auto result = admission.submit(*this);
        if (auto* slot = std::get_if<Slot>(&result)) slot_ = std::move(*slot);
    }
    /// Gives back what it has; false: it has nothing.
    bool release_to(Admission& admission) {
        if (!slot_) return false;
        admission.release(*std::exchange(slot_, std::nullopt));
        return true;
    }

private:
    Registry& registry_;
    const Target& target_;
    std::optional<Slot> slot_;
};

/// Twelve requests for two workers with two places each; one of those that wait leaves.
Run queues() {
    auto registry = std::make_shared<Registry>(2, 2);
    for (const char* worker : {"a", "b"}) {
        Registration made = *registration(0, 2);
        made.worker_id = worker;
        require(std::holds_alternative<RegistrationPtr>(
            registry->add(std::make_shared<const Registration>(std::move(made)))));
    }
    const auto admission = std::make_shared<Admission>(1024, 10);
    return [registry, admission, target = named("m0")] {
        std::vector<std::unique_ptr<Caller>> callers;
        for (int number = 0; number < 12; ++number) {
            callers.push_back(std::make_unique<Caller>(*registry, target));
            callers.back()->submit_to(*admission);
        }
        require(admission->waiting() == 8);
        admission->withdraw(*callers.back());
        int served = 0;
        for (const auto& caller : callers) served += caller->release_to(*admission);
        require(served == 11 && admission->waiting() == 0);
    };
}

Run grpc_message() {
    std::string bytes;
    for (const std::size_t size : {64, 64, 64, 64, 0, 64, 20'000, 64}) {
        const auto prefix = message_prefix(size);
        bytes.append(prefix.data(), prefix.size()).append(size, 'x');
    }
    return [bytes] {
        MessageReader reader(kLimit, Encoding::identity);
        int messages = 0;
        in_pieces(bytes, 900, [&](std::string_view piece) {
            for (;;) {
                const MessageReader::Step step = reader.feed(piece);
                piece.remove_prefix(step.taken);
                if (step.event == MessageReader::Event::more) return;
                if (step.event == MessageReader::Event::message) messages += !reader.take().empty();
            }
        });
        require(messages == 7);
    };
}

std::shared_ptr<Request> read(std::string payload) {
    auto request = std::make_shared<Request>();
    require(!read_request(std::move(payload), {}, true, *request));
    return request;
}

Run request() {
    return [payload = request_bytes(), chosen = registration(42)] {
        require(!annotations(*read(payload), *chosen, {}).empty());
    };
}

Run reply_filling() {
    std::string stream_reply;
    append_bytes_field(stream_reply, 2, reply_bytes());
    return [asked = read(request_bytes()), chosen = registration(42), unary = reply_bytes(), stream_reply] {
        Payload filled = unary;
        require(!fill_reply(filled, *asked, *chosen) && filled.size() > unary.size());
        require(as_stream_reply(std::move(filled).take(), true).size() > unary.size());
        std::string reply = stream_reply;
        StreamReplyFacts facts;
        require(!fill_stream_reply(reply, *asked, *chosen, true, facts) && reply.size() > stream_reply.size());
    };
}

struct Part {
    std::string_view name;
    Run (*make)();
};

constexpr std::array kParts{
    Part{"framing", framing},
    Part{"scan", scan},
    Part{"scan_stream", scan_stream},
    Part{"parse_query", parse_query},
    Part{"match", match},
    Part{"registry_kept", registry_kept},
    Part{"registry_by_name", registry_by_name},
    Part{"registry_by_query", registry_by_query},
    Part{"ranking", ranking},
    Part{"queues", queues},
    Part{"grpc_message", grpc_message},
    Part{"request", request},
    Part{"reply_filling", reply_filling},
};

void mark() { static_cast<void>(getppid()); }

}  // namespace

int main(int argc, char** argv) {
    if (argc != 2) {
        for (const Part& part : kParts) std::cout << part.name << '\n';
        return 0;
    }
    const auto* part =
        std::find_if(kParts.begin(), kParts.end(), [&](const Part& each) { return each.name == argv[1]; });
    if (part == kParts.end()) {
        std::cerr << "no part " << argv[1] << '\n';
        return 2;
    }
    const Run run = part->make();
    for (int count = 0; count < kWarmUps; ++count) run();
    mark();
    for (int count = 0; count < kRepeats; ++count) run();
    mark();
    std::cout << kRepeats << '\n';
}
