#pragma once

#include <string>
#include <vector>

namespace stoa {

// Qualified names of the operators registered in the stoa namespace.
std::vector<std::string> operator_names();

}  // namespace stoa
