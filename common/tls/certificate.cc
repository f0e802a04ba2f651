#include "common/tls/certificate.h"

#include <fcntl.h>
#include <fmt/chrono.h>
#include <fmt/format.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <vector>

#include "common/sys/chandle.h"
#include "common/sys/file.h"
#include "common/sys/unique_fd.h"

namespace heterok8s::tls {
namespace {

using Bio = sys::CHandle<BIO, BIO_free>;
using Bignum = sys::CHandle<BIGNUM, BN_free>;
using Certificate = sys::CHandle<X509, X509_free>;
using Extension = sys::CHandle<X509_EXTENSION, X509_EXTENSION_free>;
using Key = sys::CHandle<EVP_PKEY, EVP_PKEY_free>;
using Names = sys::CHandle<GENERAL_NAMES, GENERAL_NAMES_free>;
using Store = sys::CHandle<X509_STORE, X509_STORE_free>;
using StoreContext = sys::CHandle<X509_STORE_CTX, X509_STORE_CTX_free>;

// Clocks of the two PUs may disagree a little.
constexpr std::chrono::minutes kBackdate{5};

absl::Status OpensslError(const std::string& what) {
  std::string text = what;
  while (unsigned long error = ERR_get_error()) {
    if (const char* reason = ERR_reason_error_string(error); reason != nullptr) text += fmt::format(": {}", reason);
  }
  return absl::InternalError(text);
}

absl::StatusOr<Certificate> LoadCertificate(const std::string& pem) {
  Bio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  Certificate certificate(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (!certificate) return absl::InvalidArgumentError("no PEM certificate");
  return certificate;
}

// All of a file that holds one or more, as gRPC reads the authorities of one.
absl::StatusOr<std::vector<Certificate>> LoadBundle(const std::string& pem) {
  Bio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  std::vector<Certificate> bundle;
  while (Certificate next{PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)}) bundle.push_back(std::move(next));
  const bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  ERR_clear_error();
  if (!at_end) return absl::InvalidArgumentError(fmt::format("certificate {} of the file is none", bundle.size() + 1));
  if (bundle.empty()) return absl::InvalidArgumentError("no PEM certificate");
  return bundle;
}

absl::StatusOr<Key> LoadKey(const std::string& pem) {
  Bio bio(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  Key key(PEM_read_bio_PrivateKey(bio.get(), nullptr, nullptr, nullptr));
  ERR_clear_error();
  if (!key) return absl::InvalidArgumentError("no PEM private key");
  return key;
}

std::string Drain(BIO* bio) {
  char* data = nullptr;
  const long size = BIO_get_mem_data(bio, &data);
  return size > 0 ? std::string(data, static_cast<size_t>(size)) : std::string();
}

absl::StatusOr<KeyPair> ToPem(X509* certificate, EVP_PKEY* key) {
  Bio certificate_bio(BIO_new(BIO_s_mem()));
  Bio key_bio(BIO_new(BIO_s_secmem()));
  if (PEM_write_bio_X509(certificate_bio.get(), certificate) != 1 ||
      PEM_write_bio_PKCS8PrivateKey(key_bio.get(), key, nullptr, nullptr, 0, nullptr, nullptr) != 1) {
    return OpensslError("encode a key pair");
  }
  return KeyPair{.certificate_pem = Drain(certificate_bio.get()), .key_pem = Drain(key_bio.get())};
}

absl::Status AddExtension(X509* certificate, X509* issuer, int nid, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  Extension extension(X509V3_EXT_conf_nid(nullptr, &context, nid, value.c_str()));
  if (!extension || X509_add_ext(certificate, extension.get(), -1) != 1) {
    return OpensslError(fmt::format("add certificate extension '{}'", value));
  }
  return absl::OkStatus();
}

// Subject, key, serial and dates; issuer and signature are the caller's.
absl::StatusOr<Certificate> NewCertificate(EVP_PKEY* key, const std::string& common_name,
                                           const std::string& organization, std::chrono::seconds lifetime) {
  unsigned char serial[16];
  if (RAND_bytes(serial, sizeof(serial)) != 1) return OpensslError("random serial");
  serial[0] &= 0x7f;  // positive
  serial[0] |= 0x40;  // and always of full length
  Bignum number(BN_bin2bn(serial, sizeof(serial), nullptr));
  Certificate certificate(X509_new());
  if (!number || !certificate || X509_set_version(certificate.get(), X509_VERSION_3) != 1 ||
      BN_to_ASN1_INTEGER(number.get(), X509_get_serialNumber(certificate.get())) == nullptr ||
      X509_set_pubkey(certificate.get(), key) != 1) {
    return OpensslError("new certificate");
  }
  X509_NAME* name = X509_get_subject_name(certificate.get());
  for (const auto& [key_word, text] : {std::pair("O", organization), std::pair("CN", common_name)}) {
    if (text.empty()) continue;
    const auto* bytes = reinterpret_cast<const unsigned char*>(text.data());
    if (X509_NAME_add_entry_by_txt(name, key_word, MBSTRING_UTF8, bytes, static_cast<int>(text.size()), -1, 0) != 1) {
      return OpensslError(fmt::format("certificate subject '{}'", text));
    }
  }
  using std::chrono::duration_cast;
  X509_gmtime_adj(X509_getm_notBefore(certificate.get()),
                  -static_cast<long>(duration_cast<std::chrono::seconds>(kBackdate).count()));
  X509_gmtime_adj(X509_getm_notAfter(certificate.get()), static_cast<long>(lifetime.count()));
  return certificate;
}

std::chrono::system_clock::time_point ToTime(const ASN1_TIME* time) {
  std::tm tm{};
  ASN1_TIME_to_tm(time, &tm);
  return std::chrono::system_clock::from_time_t(timegm(&tm));
}

std::string NameText(const X509_NAME* name) {
  Bio bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), name, 0, XN_FLAG_RFC2253);
  return Drain(bio.get());
}

std::optional<Identity> IdentityOf(X509* certificate) {
  Names names(static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    const ASN1_IA5STRING* uri = name->d.uniformResourceIdentifier;
    const std::string text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)), ASN1_STRING_length(uri));
    if (absl::StatusOr<Identity> identity = Identity::FromUri(text); identity.ok()) return *identity;
  }
  return std::nullopt;
}

std::string Hex(const unsigned char* bytes, size_t size) {
  std::string text;
  for (size_t i = 0; i < size; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

// Written and synced, not yet renamed.
absl::Status Stage(const std::string& path, const std::string& text, mode_t mode) {
  unlink(path.c_str());
  sys::UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, mode));
  if (!fd.valid()) return ErrnoToStatus(errno, fmt::format("create '{}'", path));
  if (fchmod(fd.get(), mode) != 0) return ErrnoToStatus(errno, fmt::format("chmod '{}'", path));  // whatever the umask
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = write(fd.get(), text.data() + done, text.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return ErrnoToStatus(errno, fmt::format("write '{}'", path));
    done += static_cast<size_t>(n);
  }
  if (fsync(fd.get()) != 0) return ErrnoToStatus(errno, fmt::format("sync '{}'", path));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<KeyPair> MakeCa(const std::string& common_name, std::chrono::seconds lifetime) {
  Key key(EVP_EC_gen("P-256"));
  if (!key) return OpensslError("make a key");
  HK_ASSIGN_OR_RETURN(Certificate certificate, NewCertificate(key.get(), common_name, "", lifetime));
  X509* self = certificate.get();
  if (X509_set_issuer_name(self, X509_get_subject_name(self)) != 1) return OpensslError("CA issuer");
  HK_RETURN_IF_ERROR(AddExtension(self, self, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  HK_RETURN_IF_ERROR(AddExtension(self, self, NID_key_usage, "critical,keyCertSign,cRLSign"));
  HK_RETURN_IF_ERROR(AddExtension(self, self, NID_subject_key_identifier, "hash"));
  if (X509_sign(self, key.get(), EVP_sha256()) == 0) return OpensslError("sign the CA");
  return ToPem(self, key.get());
}

absl::StatusOr<KeyPair> MakeCertificate(const KeyPair& ca, const CertificateRequest& request,
                                        std::chrono::seconds lifetime) {
  HK_ASSIGN_OR_RETURN(Certificate issuer, LoadCertificate(ca.certificate_pem));
  HK_ASSIGN_OR_RETURN(Key issuer_key, LoadKey(ca.key_pem));
  Key key(EVP_EC_gen("P-256"));
  if (!key) return OpensslError("make a key");
  HK_ASSIGN_OR_RETURN(Certificate certificate,
                      NewCertificate(key.get(), request.common_name, request.organization, lifetime));
  X509* leaf = certificate.get();
  // Beyond its authority's end it would only seem to be valid.
  const ASN1_TIME* end = X509_get0_notAfter(issuer.get());
  if (ASN1_TIME_compare(X509_get0_notAfter(leaf), end) > 0 && X509_set1_notAfter(leaf, end) != 1) {
    return OpensslError("certificate lifetime");
  }
  if (X509_set_issuer_name(leaf, X509_get_subject_name(issuer.get())) != 1) return OpensslError("leaf issuer");
  HK_RETURN_IF_ERROR(AddExtension(leaf, issuer.get(), NID_basic_constraints, "critical,CA:FALSE"));
  HK_RETURN_IF_ERROR(AddExtension(leaf, issuer.get(), NID_key_usage, "critical,digitalSignature"));
  HK_RETURN_IF_ERROR(AddExtension(leaf, issuer.get(), NID_ext_key_usage, "serverAuth,clientAuth"));
  HK_RETURN_IF_ERROR(AddExtension(leaf, issuer.get(), NID_subject_key_identifier, "hash"));
  HK_RETURN_IF_ERROR(AddExtension(leaf, issuer.get(), NID_authority_key_identifier, "keyid:always"));
  if (!request.alternative_names.empty()) {
    HK_RETURN_IF_ERROR(AddExtension(leaf, issuer.get(), NID_subject_alt_name, request.alternative_names));
  }
  if (X509_sign(leaf, issuer_key.get(), EVP_sha256()) == 0) return OpensslError("sign the leaf");
  return ToPem(leaf, key.get());
}

absl::StatusOr<KeyPair> MakeLeaf(const KeyPair& ca, const Identity& identity, std::chrono::seconds lifetime) {
  HK_RETURN_IF_ERROR(CheckNodeName(identity.node));
  // A common name holds at most 64 characters and nobody reads it: the role is enough, the SANs say all.
  return MakeCertificate(ca,
                         {.common_name = fmt::format("heterok8s {}", Name(identity.role)),
                          .organization = "",
                          .alternative_names = fmt::format("URI:{},DNS:{}", identity.Uri(), identity.DnsName())},
                         lifetime);
}

absl::StatusOr<CertificateInfo> ParseCertificate(const std::string& pem) {
  HK_ASSIGN_OR_RETURN(Certificate certificate, LoadCertificate(pem));
  X509* x509 = certificate.get();
  CertificateInfo info{.subject = NameText(X509_get_subject_name(x509)),
                       .issuer = NameText(X509_get_issuer_name(x509))};
  const ASN1_INTEGER* serial = X509_get0_serialNumber(x509);
  info.serial = Hex(ASN1_STRING_get0_data(serial), ASN1_STRING_length(serial));
  info.not_before = ToTime(X509_get0_notBefore(x509));
  info.not_after = ToTime(X509_get0_notAfter(x509));
  info.is_ca = X509_check_ca(x509) == 1;
  info.identity = IdentityOf(x509);
  unsigned char digest[EVP_MAX_MD_SIZE];
  unsigned int size = 0;
  if (X509_digest(x509, EVP_sha256(), digest, &size) != 1) return OpensslError("certificate digest");
  info.fingerprint = Hex(digest, size);
  return info;
}

absl::StatusOr<KeyPair> ReadKeyPair(const PairPaths& paths) {
  KeyPair pair;
  HK_ASSIGN_OR_RETURN(pair.certificate_pem, sys::ReadFile(paths.certificate, 1u << 20));
  HK_ASSIGN_OR_RETURN(pair.key_pem, sys::ReadFile(paths.key, 1u << 20));
  return pair;
}

absl::Status WriteKeyPair(const KeyPair& pair, const PairPaths& paths) {
  const std::string new_key = fmt::format("{}.new-{}", paths.key, getpid());
  const std::string new_certificate = fmt::format("{}.new-{}", paths.certificate, getpid());
  absl::Status staged = Stage(new_key, pair.key_pem, 0600);
  if (staged.ok()) staged = Stage(new_certificate, pair.certificate_pem, 0644);
  if (staged.ok() && rename(new_key.c_str(), paths.key.c_str()) != 0) {
    staged = ErrnoToStatus(errno, fmt::format("rename to '{}'", paths.key));
  }
  if (staged.ok() && rename(new_certificate.c_str(), paths.certificate.c_str()) != 0) {
    staged = ErrnoToStatus(errno, fmt::format("rename to '{}'", paths.certificate));
  }
  if (!staged.ok()) {
    unlink(new_key.c_str());
    unlink(new_certificate.c_str());
    return staged;
  }
  const std::string folder = paths.key.substr(0, paths.key.find_last_of('/') + 1);
  sys::UniqueFd fd(open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd.valid() || fsync(fd.get()) != 0) return ErrnoToStatus(errno, fmt::format("sync '{}'", folder));
  return absl::OkStatus();
}

absl::Status CheckKeyPair(const KeyPair& pair) {
  HK_ASSIGN_OR_RETURN(Certificate certificate, LoadCertificate(pair.certificate_pem));
  HK_ASSIGN_OR_RETURN(Key key, LoadKey(pair.key_pem));
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    ERR_clear_error();
    return absl::FailedPreconditionError("the key does not belong to the certificate");
  }
  return absl::OkStatus();
}

absl::Status CheckSignedBy(const std::string& certificate_pem, const std::string& ca_pem) {
  HK_ASSIGN_OR_RETURN(Certificate certificate, LoadCertificate(certificate_pem));
  HK_ASSIGN_OR_RETURN(std::vector<Certificate> authorities, LoadBundle(ca_pem));
  Store store(X509_STORE_new());
  StoreContext context(X509_STORE_CTX_new());
  for (const Certificate& authority : authorities) {
    if (!store || X509_STORE_add_cert(store.get(), authority.get()) != 1) return OpensslError("verify a certificate");
  }
  if (!store || !context || X509_STORE_CTX_init(context.get(), store.get(), certificate.get(), nullptr) != 1) {
    return OpensslError("verify a certificate");
  }
  if (X509_verify_cert(context.get()) == 1) return absl::OkStatus();
  const char* reason = X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get()));
  ERR_clear_error();
  return absl::FailedPreconditionError(fmt::format("certificate of {} issued by {}: {}",
                                                   NameText(X509_get_subject_name(certificate.get())),
                                                   NameText(X509_get_issuer_name(certificate.get())), reason));
}

}  // namespace heterok8s::tls
