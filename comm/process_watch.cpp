#include "comm/process_watch.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <sstream>
#include <thread>
#include <utility>

#include "comm/text.h"
#include "engine/core/error.h"
#include "engine/core/profiler.h"

namespace comm {

using engine::Activity;
using engine::Error;
using engine::ExitCode;
using engine::monotonic_seconds;
using engine::str;

namespace {

constexpr int kTickMilliseconds = 250;
constexpr int kConnectMilliseconds = 3000;

using Word = std::array<char, 16>;

// What goes over a connection, nothing else.
struct Message {
  enum Kind : int32_t { sighting, leaving, end };
  Word word{};
  int32_t rank = 0;
  Kind kind = sighting;
  Sighting seen;
};

std::string host_name() {
  char host[64] = {};
  gethostname(host, sizeof(host) - 1);
  return host;
}

// A socket with what has come of the next message.
class Connection {
 public:
  explicit Connection(int socket) : socket_(socket) {
    const int yes = 1;
    setsockopt(socket_, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
    fcntl(socket_, F_SETFL, fcntl(socket_, F_GETFL) | O_NONBLOCK);
  }
  Connection(Connection&& other) noexcept
      : rank(other.rank), socket_(std::exchange(other.socket_, -1)), buffer_(other.buffer_), filled_(other.filled_) {}
  Connection& operator=(Connection&&) = delete;
  ~Connection() { close(); }

  int socket() const { return socket_; }
  bool is_open() const { return socket_ >= 0; }
  void close() {
    if (socket_ >= 0) ::close(std::exchange(socket_, -1));
  }
  // What does not fit into the buffer of a process that reads nothing is dropped with it.
  void send(const Message& message) {
    if (!sends_ || socket_ < 0) return;
    const ssize_t sent = ::send(socket_, &message, sizeof(message), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0 && sent != static_cast<ssize_t>(sizeof(message))) sends_ = false;  // no longer whole messages
  }
  // Calls visit for every message that has come; false: the other end is gone.
  template <class Visit>
  bool receive(Visit visit) {
    for (;;) {
      const ssize_t got = recv(socket_, buffer_.data() + filled_, buffer_.size() - filled_, 0);
      if (got < 0) return errno == EAGAIN || errno == EINTR;
      if (got == 0) return false;
      filled_ += static_cast<size_t>(got);
      if (filled_ < buffer_.size()) continue;
      filled_ = 0;
      Message message;
      std::memcpy(static_cast<void*>(&message), buffer_.data(), sizeof(message));
      visit(message);
    }
  }

  int rank = -1;  // not known yet

 private:
  int socket_;
  std::array<char, sizeof(Message)> buffer_;
  size_t filled_ = 0;
  bool sends_ = true;
};

// Addresses of this host, those of the machine alone only if `local`.
std::string own_addresses(bool local) {
  if (local) return "127.0.0.1";
  std::string list;
  ifaddrs* first = nullptr;
  if (getifaddrs(&first) != 0) return list;
  for (const ifaddrs* at = first; at != nullptr; at = at->ifa_next) {
    if (at->ifa_addr == nullptr || at->ifa_addr->sa_family != AF_INET) continue;
    char text[INET_ADDRSTRLEN] = {};
    inet_ntop(AF_INET, &reinterpret_cast<const sockaddr_in*>(at->ifa_addr)->sin_addr, text, sizeof(text));
    if (std::strncmp(text, "127.", 4) != 0) list += std::string(list.empty() ? "" : " ") + text;
  }
  freeifaddrs(first);
  return list;
}

sockaddr_in address_of(const std::string& text, int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  inet_pton(AF_INET, text.c_str(), &address.sin_addr);
  return address;
}

// -1: no answer.
int connect_to(const std::string& text, int port) {
  const int made = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  const sockaddr_in address = address_of(text, port);
  if (connect(made, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0) {
    pollfd ready{made, POLLOUT, 0};
    int error = 0;
    socklen_t size = sizeof(error);
    const bool answered = errno == EINPROGRESS && poll(&ready, 1, kConnectMilliseconds) == 1 &&
                          getsockopt(made, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
    if (!answered) return ::close(made), -1;
  }
  return made;
}

}  // namespace

void end_watched_job(const std::string& verdict) {
  std::fflush(stdout);
  std::fprintf(stderr, "error: %s (exit %d)\n", verdict.c_str(), static_cast<int>(ExitCode::rank_lost));
  _exit(static_cast<int>(ExitCode::rank_lost));
}

class ProcessWatch::Thread {
 public:
  Thread(Group& world, const WatchLimits& limits)
      : rank_(world.rank()),
        activity_(engine::activity()),
        limits_(limits),
        hosts_(all_gather_text(world, host_name())) {
    const bool local = std::all_of(hosts_.begin(), hosts_.end(), [&](const std::string& h) { return h == hosts_[0]; });
    std::ostringstream mine;
    if (rank_ == 0) {
      if (getrandom(word_.data(), word_.size(), 0) != static_cast<ssize_t>(word_.size())) word_.fill('?');
      mine << listen_on(local ? "127.0.0.1" : "0.0.0.0") << ' ' << own_addresses(local);
    }
    const std::vector<std::string> places = all_gather_text(world, mine.str());
    world.broadcast(Tensor(word_.data(), DType::u8, {static_cast<int64_t>(word_.size())}), 0).wait();
    int64_t unreachable = rank_ == 0 || reach(places[0]) ? 0 : 1;
    world.all_reduce_sum(Tensor(&unreachable, DType::i64, {1})).wait();
    if (unreachable > 0 && rank_ == 0) {
      std::fprintf(stderr,
                   "warning: %lld ranks do not reach rank 0 over TCP and are not watched: one that hangs may not "
                   "be found\n",
                   static_cast<long long>(unreachable));
    }
    wake_ = eventfd(0, EFD_CLOEXEC);
    thread_ = std::thread([this] { watch(); });
  }
  ~Thread() {
    leaving_ = true;
    const uint64_t one = 1;
    if (write(wake_, &one, sizeof(one)) < 0) {
      // the thread looks at leaving_ with every tick
    }
    thread_.join();
    for (Connection& connection : connections_) connection.send(message(Message::leaving));
    ::close(wake_);
    if (listener_ >= 0) ::close(listener_);
  }
  void expect_ends() { ends_expected_ = true; }

 private:
  Message message(Message::Kind kind) const { return {word_, rank_, kind, Sighting::of(activity_)}; }

  // The port.
  int listen_on(const std::string& text) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    sockaddr_in address = address_of(text, 0);
    socklen_t size = sizeof(address);
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 || listen(listener_, 512) != 0 ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
      throw Error(ExitCode::environment, str("cannot listen for the other ranks: ", std::strerror(errno)));
    }
    return ntohs(address.sin_port);
  }

  bool reach(const std::string& place) {
    std::istringstream words(place);
    int port = 0;
    words >> port;
    for (std::string address; words >> address;) {
      const int made = connect_to(address, port);
      if (made < 0) continue;
      connections_.emplace_back(made).rank = 0;
      connections_.back().send(message(Message::sighting));
      return true;
    }
    return false;
  }

  void watch() {
    Judge judge(hosts_, limits_, monotonic_seconds());
    double next_tick = 0;
    std::vector<pollfd> ready;
    while (!leaving_) {
      ready.assign({{wake_, POLLIN, 0}, {listener_, POLLIN, 0}});
      for (const Connection& connection : connections_) ready.push_back({connection.socket(), POLLIN, 0});
      poll(ready.data(), ready.size(), kTickMilliseconds);
      const double now = monotonic_seconds();
      if (listener_ >= 0) accept_all();
      for (Connection& connection : connections_) {
        if (connection.is_open()) read(connection, judge, now);
      }
      if (now < next_tick) continue;
      next_tick = now + kTickMilliseconds * 1e-3;
      for (Connection& connection : connections_) connection.send(message(Message::sighting));
      look_at_the_unseen(judge, now);
      const std::string verdict = judge.verdict(now);
      if (!verdict.empty() && !ends_expected_) condemn(verdict);
    }
  }

  void accept_all() {
    for (;;) {
      const int made = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
      if (made < 0) return;
      connections_.emplace_back(made);
    }
  }

  void read(Connection& connection, Judge& judge, double now) {
    bool stranger = false;
    const bool open = connection.receive([&](const Message& message) {
      const bool known = message.word == word_ && message.rank >= 0 && message.rank < static_cast<int>(hosts_.size());
      if (!known) stranger = true;
      if (!known || stranger) return;
      connection.rank = message.rank;
      reached_[static_cast<size_t>(message.rank)] = true;
      if (message.kind == Message::end) _exit(static_cast<int>(ExitCode::rank_lost));  // who sent it has said why
      if (message.kind == Message::leaving) judge.left(message.rank);
      judge.saw(message.rank, message.seen, now);
    });
    if (open && !stranger) return;
    if (connection.rank >= 0 && !stranger) judge.died(connection.rank);
    connection.close();
  }

  // A rank sees itself, and does not judge those it has no word from: rank 0 may hear everybody, the others only rank
  // 0. That a rank other than 0 hangs itself is for rank 0 to say.
  void look_at_the_unseen(Judge& judge, double now) {
    Sighting own = Sighting::of(activity_);
    if (rank_ != 0) own.in_step = false;
    for (int r = 0; r < static_cast<int>(hosts_.size()); ++r) {
      if (r == rank_ || !reached_[static_cast<size_t>(r)]) judge.saw(r, r == rank_ ? own : Sighting(), now);
    }
  }

  // One rank speaks: 0, or where that is lost 1; the others only if nobody has ended them meanwhile.
  [[noreturn]] void condemn(const std::string& verdict) {
    for (Connection& connection : connections_) connection.send(message(Message::end));
    if (rank_ > 1) sleep(static_cast<unsigned>(2 * std::min(rank_ - 1, 4)));
    end_watched_job(verdict);
  }

  int rank_;
  const Activity& activity_;
  WatchLimits limits_;
  std::vector<std::string> hosts_;
  Word word_{};
  int listener_ = -1, wake_ = -1;
  std::vector<Connection> connections_;
  std::vector<bool> reached_ = std::vector<bool>(hosts_.size());
  std::atomic<bool> leaving_{false}, ends_expected_{false};
  std::thread thread_;
};

ProcessWatch::ProcessWatch(Group& world, const WatchLimits& limits)
    : thread_(std::make_unique<Thread>(world, limits)) {}

ProcessWatch::~ProcessWatch() = default;

void ProcessWatch::finish(Group& world) {
  thread_->expect_ends();
  world.barrier();
}

}  // namespace comm
