#pragma once

// Named arrays in files, as write_arrays and read_arrays of simt_build.py have them:
//
//   const simt::Arrays in(argv[1]);
//   const float* cost = in.data<float>("cost");
//   const std::int64_t rows = in.shape("cost")[0];
//   simt::Arrays out;
//   std::int64_t* match = out.add<std::int64_t>("match", {rows});
//   out.write(argv[2]);
//
// An array is an allocation of exactly its size; one that is added holds the unset pattern.

#include "simt.h"

#include <cstdio>
#include <cstdlib>
#include <list>
#include <string>
#include <vector>

namespace simt {

class Arrays {
 public:
  Arrays() = default;
  Arrays(const Arrays&) = delete;
  Arrays& operator=(const Arrays&) = delete;

  explicit Arrays(const char* path) {
    File file(path, "rb");
    std::uint32_t name_size, ndim;
    while (std::fread(&name_size, sizeof(name_size), 1, file.stream) == 1) {
      std::string name(name_size, ' ');
      char code;
      file.read(name.data(), name_size);
      file.read(&code, 1);
      file.read(&ndim, sizeof(ndim));
      std::vector<std::int64_t> shape(ndim);
      file.read(shape.data(), ndim * sizeof(std::int64_t));
      Array& array = allocate(name, code, shape);
      file.read(array.data, array.bytes);
    }
  }

  ~Arrays() {
    for (const Array& array : arrays_) {
      std::free(array.data);
    }
  }

  const std::vector<std::int64_t>& shape(const char* name) const { return find(name).shape; }
  char type(const char* name) const { return find(name).code; }
  bool has(const char* name) const { return lookup(name) != nullptr; }

  template <typename T>
  const T* data(const char* name) const {
    const Array& array = find(name);
    if (array.code != code<T>()) {
      fail("array %s has type '%c', read as '%c'", name, array.code, code<T>());
    }
    return static_cast<const T*>(array.data);
  }

  template <typename T>
  T* add(const char* name, const std::vector<std::int64_t>& shape) {
    return static_cast<T*>(allocate(name, code<T>(), shape).data);
  }

  void write(const char* path) const {
    File file(path, "wb");
    for (const Array& array : arrays_) {
      const std::uint32_t name_size = array.name.size(), ndim = array.shape.size();
      file.write(&name_size, sizeof(name_size));
      file.write(array.name.data(), name_size);
      file.write(&array.code, 1);
      file.write(&ndim, sizeof(ndim));
      file.write(array.shape.data(), ndim * sizeof(std::int64_t));
      file.write(array.data, array.bytes);
    }
  }

 private:
  struct Array {
    std::string name;
    char code;
    std::vector<std::int64_t> shape;
    void* data;
    std::size_t bytes;
  };

  struct File {
    File(const char* path, const char* mode) : stream(std::fopen(path, mode)) {
      if (stream == nullptr) {
        fail("cannot open %s", path);
      }
    }
    ~File() { std::fclose(stream); }
    void read(void* to, std::size_t bytes) {
      if (std::fread(to, 1, bytes, stream) != bytes) {
        fail("a file of arrays ends early");
      }
    }
    void write(const void* from, std::size_t bytes) {
      if (std::fwrite(from, 1, bytes, stream) != bytes) {
        fail("cannot write a file of arrays");
      }
    }
    std::FILE* stream;
  };

  // numpy's characters of types; it has none for bfloat16.
  template <typename T>
  static constexpr char code() {
    if constexpr (std::is_same_v<T, bool>) {
      return '?';
    } else if constexpr (std::is_same_v<T, __half>) {
      return 'e';
    } else if constexpr (std::is_same_v<T, __nv_bfloat16>) {
      return 'H';
    } else if constexpr (std::is_floating_point_v<T>) {
      return sizeof(T) == 4 ? 'f' : 'd';
    } else {
      static_assert(std::is_signed_v<T>);
      return sizeof(T) == 8 ? 'q' : sizeof(T) == 4 ? 'i' : sizeof(T) == 2 ? 'h' : 'b';
    }
  }

  static std::size_t item_bytes(char code) {
    switch (code) {
      case '?':
      case 'b':
        return 1;
      case 'e':
      case 'H':
      case 'h':
        return 2;
      case 'f':
      case 'i':
        return 4;
      case 'd':
      case 'q':
        return 8;
    }
    fail("arrays of type '%c' are not supported", code);
  }

  Array& allocate(const std::string& name, char code, const std::vector<std::int64_t>& shape) {
    std::size_t bytes = item_bytes(code);
    for (const std::int64_t size : shape) {
      bytes *= static_cast<std::size_t>(size);
    }
    arrays_.push_back({name, code, shape, std::malloc(bytes), bytes});
    fill_unset(arrays_.back().data, bytes);
    return arrays_.back();
  }

  const Array* lookup(const char* name) const {
    for (const Array& array : arrays_) {
      if (array.name == name) {
        return &array;
      }
    }
    return nullptr;
  }

  const Array& find(const char* name) const {
    const Array* array = lookup(name);
    if (array == nullptr) {
      fail("there is no array %s", name);
    }
    return *array;
  }

  std::list<Array> arrays_;
};

// Calls `body` with a value of the floating type that has this character.
template <typename Body>
void for_type(char code, const Body& body) {
  switch (code) {
    case 'f':
      return body(float());
    case 'd':
      return body(double());
    case 'e':
      return body(__half());
    case 'H':
      return body(__nv_bfloat16());
  }
  fail("this program has no kernels of type '%c'", code);
}

// The main program of a driver: DRIVER IN OUT IN OUT ..., each pair the arrays of one case.
template <typename Case>
int run_cases(int argc, char** argv, const Case& run_case) {
  for (int i = 1; i + 1 < argc; i += 2) {
    std::fprintf(stderr, "%s\n", argv[i]);  // to be seen where the program ends early
    const Arrays in(argv[i]);
    Arrays out;
    run_case(in, out);
    out.write(argv[i + 1]);
  }
  return 0;
}

}  // namespace simt
