data_dir = "data/a"

proxy {
  access_log = "/no/such/directory/access.log"
}
