name     = "a"
data_dir = "data/a
role     = "server"

proxy {
  lissten = "127.0.0.1:8080"
}

api {
