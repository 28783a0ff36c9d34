// TensorBoard's event files: protocol buffers in records with checksums, written without either library.
//
// A record is the length of its data (8 bytes), a checksum of those 8 bytes, the data, and a checksum of the data; the
// data is one Event. A file begins with the event that names its version.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace engine::train {

using Scalars = std::vector<std::pair<std::string, double>>;  // tag and value

// `wall_time` in seconds since 1970.
std::string tensorboard_header(double wall_time);
// Values of one step; readers keep single precision.
std::string tensorboard_scalars(double wall_time, int64_t step, const Scalars& scalars);
// Tells readers that what other files of the directory have from `first_step` on was abandoned.
std::string tensorboard_restart(double wall_time, int64_t first_step);

// CRC-32C (Castagnoli polynomial), rotated and shifted as the format wants it, so that checksums of data that holds
// checksums do not degenerate.
uint32_t masked_crc32c(std::string_view data);

// events.out.tfevents.SECONDS.HOST.PROCESS: readers look for "tfevents" and sort by name.
std::string tensorboard_file_name(double wall_time);

}  // namespace engine::train
