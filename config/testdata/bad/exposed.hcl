name     = "a"
data_dir = "data/a"

proxy {
  listen = ":8080"
}

api {
  listen = "10.0.0.1:8081"
}
