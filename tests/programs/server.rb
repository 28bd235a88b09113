# Counts its requests, each in a thread of its own, with a garbage collector at work.
require "socket"
words = (0...50_000).map { |index| "word #{index}" }
count = 0
lock = Mutex.new
Thread.new { loop { Array.new(10_000) { |n| n.to_s }; sleep 0.01 } }
server = TCPServer.new("127.0.0.1", 0)
File.write("draft", server.addr[1].to_s)
File.rename("draft", "port")
loop do
  Thread.new(server.accept) do |client|
    client.readpartial(4096)
    line = lock.synchronize { count += 1; "#{count} #{words[count * 7919 % words.size]}\n" }
    client.write("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n#{line}")
    client.close
  end
end
