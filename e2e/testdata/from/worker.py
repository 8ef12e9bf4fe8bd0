# quote: worker
import urllib.request

with urllib.request.urlopen("https://api.example.com/data") as r:
    print(r.read().decode())
# end quote
